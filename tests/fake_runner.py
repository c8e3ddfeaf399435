"""A runner's child without torch: speaks protocol.py on stdin and stdout, for process tests.

What it does is told by the model's file name and the prompt's words, so a test needs no other
channel: `Load.files` names `slow`, `broken` ...; the prompts are the keys of `_ANSWERS`.
Tokens are words; token n is the word `w<n>`.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from typing import BinaryIO

from olla.runner.protocol import (
    Cancel,
    Detokenize,
    Embed,
    Embeddings,
    Failed,
    FailureKind,
    Finished,
    FromRunner,
    Generate,
    Load,
    Loaded,
    LoadProgress,
    Piece,
    Rerank,
    Scores,
    Text,
    Tokenize,
    Tokens,
    ToRunner,
    decode_to_runner,
    encode,
    read_message,
)

LOADED = Loaded("fake", 4096, total_bytes=1000, bytes_on_device=0, device="cpu", dtype="float32")


class Child:
    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._endless: set[int] = set()
        self._num_cancelled = 0

    def send(self, message: FromRunner) -> None:
        self._output.write(encode(message))
        self._output.flush()

    def load(self, message: Load) -> bool:
        """Load, as the files' names say; whether to go on."""
        if "dies" in message.files:
            os._exit(3)
        if "broken" in message.files:
            self.send(Failed(0, FailureKind.BAD_INPUT, "broken file"))
            return False
        if "huge" in message.files:
            self.send(Failed(0, FailureKind.OUT_OF_MEMORY, "model requires more system memory"))
            return False
        self.send(LoadProgress(1, 2))
        if "stuck" not in message.files:
            self.send(LoadProgress(2, 2))
            self.send(LOADED)
        return True

    def handle(self, message: ToRunner) -> None:
        match message:
            case Load():
                if not self.load(message):
                    sys.exit(1)
            case Generate():
                self.generate(message)
            case Cancel(id=number):
                self._endless.discard(number)
                self._num_cancelled += 1
            case Embed():
                self.embed(message)
            case Rerank(id=number, documents=documents):
                self.send(Scores(number, [float(len(text)) for text in documents], 3))
            case Tokenize(id=number, text=text):
                words = text.split()
                self.send(Tokens(number, [len(word) for word in words]))
            case Detokenize(id=number, tokens=tokens):
                self.send(Text(number, " ".join(f"w{token}" for token in tokens)))

    def generate(self, message: Generate) -> None:
        match message.prompt.split():
            case ["endless"]:
                self._endless.add(message.id)
            case ["die"]:
                self.send(Piece(message.id, "last words"))
                os.kill(os.getpid(), 9)
            case ["garbage"]:
                self._output.write(b"\xff\xff\xff\xff garbage")
                self._output.flush()
            case ["fail", kind]:
                self.send(Failed(message.id, FailureKind(kind), f"failed: {kind}"))
            case ["cancelled"]:
                self.reply(message.id, [str(self._num_cancelled)])
            case ["flood", number]:
                self.reply(message.id, ["x" * 1000] * int(number))
            case words:
                self.reply(message.id, words)

    def embed(self, message: Embed) -> None:
        """A vector for each input, by itself; "endless" is never the last."""
        if message.inputs == ["endless"]:
            self._endless.add(message.id)
            return
        for place, text in enumerate(message.inputs):
            is_last = place == len(message.inputs) - 1
            self.send(Embeddings(message.id, [place], b"1234", [len(text)], is_last=is_last))

    def reply(self, number: int, words: list[str]) -> None:
        for word in words:
            self.send(Piece(number, word))
        self.send(Finished(number, "stop", 1, 10, len(words), 20))

    def step(self) -> None:
        """One more piece for each request that has no end."""
        for number in tuple(self._endless):
            self.send(Piece(number, "."))

    @property
    def is_busy(self) -> bool:
        return bool(self._endless)


def main() -> None:
    child = Child(os.fdopen(os.dup(1), "wb"))
    messages: queue.Queue[ToRunner | None] = queue.Queue()
    threading.Thread(target=_read, args=(messages,), daemon=True).start()
    is_deaf = False
    while True:
        try:
            message = messages.get(timeout=0.001 if child.is_busy else None)
        except queue.Empty:
            child.step()
            continue
        if message is None and not is_deaf:
            return
        if isinstance(message, Load):
            is_deaf = "deaf" in message.files
        if message is not None:
            child.handle(message)


def _read(messages: queue.Queue[ToRunner | None]) -> None:
    while (body := read_message(sys.stdin.buffer)) is not None:
        messages.put(decode_to_runner(body))
    messages.put(None)


if __name__ == "__main__":
    main()
