"""A process that changes a store at random, as a pull, a create or a delete would.

Arguments: the store's root, a seed, a number of rounds (0: until killed). A line a round goes to
stdout. Ends with an error as soon as a model it holds does not verify.
"""

from __future__ import annotations

import os
import random
import sys
import time
from contextlib import suppress
from pathlib import Path

from olla.errors import ModelNotFound
from olla.names import ModelName
from olla.registry.blobs import STALE_S
from olla.registry.digest import Digest
from olla.registry.manifest import (
    CONFIG_TYPE,
    Layer,
    Manifest,
    MediaType,
    ModelConfig,
    format_config,
    format_manifest,
)
from olla.registry.store import ModelStore

NAMES = [ModelName.parse(text) for text in ("a", "b", "c/d")]


class Worker:
    def __init__(self, root: Path, seed: int) -> None:
        self._store = ModelStore(root)
        self._blobs = root / "blobs"
        self._chance = random.Random(seed)

    def work(self) -> str:
        actions = [self.create, self.create, self.delete, self.copy, self.prune, self.verify]
        action = self._chance.choice([*actions, self.collect])
        with suppress(ModelNotFound):
            action()
        return action.__name__

    def create(self) -> None:
        """From few contents, so that models share blobs."""
        contents = [bytes([self._chance.randrange(6)]) * 5000 for _ in range(3)]
        with self._store.hold() as hold:
            layers = []
            for data in [*contents, format_config(ModelConfig())]:
                digest = Digest.of(data)
                hold.add(digest)
                if not self._store.blobs.has(digest):
                    self._store.blobs.put(data)
                layers.append(Layer(MediaType.LICENSE, digest, len(data)))
            config = Layer(CONFIG_TYPE, layers[-1].digest, layers[-1].size_bytes)
            self._store.put(self._name(), format_manifest(Manifest(config, tuple(layers[:-1]))))

    def delete(self) -> None:
        self._store.delete(self._name())

    def copy(self) -> None:
        self._store.copy(self._name(), self._name())

    def prune(self) -> None:
        """With every blob so old that only what is named or held is safe."""
        then = time.time() - 2 * STALE_S
        for path in list(self._blobs.glob("sha256-*")):
            with suppress(FileNotFoundError):
                os.utime(path, (then, then))
        self._store.prune()

    def collect(self) -> None:
        """As `olla gc --all`."""
        self._store.collect(min_age_s=0)

    def verify(self) -> None:
        """A model that is still the same once its blobs are held is whole."""
        name = self._name()
        with self._store.hold() as hold:
            model = self._store.resolve(name)
            for layer in model.manifest.blobs:
                hold.add(layer.digest)
            if self._store.resolve(name).digest == model.digest:
                for layer in model.manifest.blobs:
                    data = self._store.blobs.path(layer.digest).read_bytes()
                    assert Digest.of(data) == layer.digest

    def _name(self) -> ModelName:
        return self._chance.choice(NAMES)


def main(root: str, seed: str, rounds: str) -> None:
    worker = Worker(Path(root), int(seed))
    done = 0
    while done != int(rounds) or rounds == "0":
        sys.stdout.write(f"{worker.work()}\n")
        sys.stdout.flush()
        done += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
