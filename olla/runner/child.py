"""The child: messages in, engine steps, messages out.

One thread reads and tokenizes, the main thread steps the engine. The process ends when its stdin
does, whatever it is doing: the daemon is gone or wants it gone, and it holds nothing worth saving.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from io import FileIO
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from olla.engine.blocks import BLOCK_SIZE
from olla.engine.drafter import check_draft
from olla.engine.embedder import Embedder, Job, NoEngine
from olla.engine.encoder_files import is_encoder
from olla.engine.engine import Engine, cache_bytes_per_token
from olla.engine.fitting import choose_plan, first_that_fits, gpus
from olla.engine.grammar import Constraint
from olla.engine.image_places import PlacedPrompt
from olla.engine.inputs import InputReader
from olla.engine.loading import LoadedModel, OnProgress, load_model
from olla.engine.memory import cache_budget, cache_tokens, synchronize
from olla.engine.placement import Plan
from olla.engine.pooled_decoder import PooledDecoder, decoder_head
from olla.engine.profile import StageTimes
from olla.engine.speculator import models_of, speculation_of
from olla.errors import BadInput, OllaError, OutOfMemory, PromptTooLong
from olla.logs import configure_logging
from olla.runner.protocol import (
    Cancel,
    Detokenize,
    Embed,
    Failed,
    FailureKind,
    Files,
    FromRunner,
    Generate,
    Load,
    Loaded,
    LoadProgress,
    Rerank,
    Stepped,
    Text,
    Tokenize,
    Tokens,
    ToRunner,
    decode_to_runner,
    encode,
    read_message,
)

if TYPE_CHECKING:
    from olla.engine.encoder import LoadedEncoder

_PROGRESS_EVERY_S = 0.1
_LEAST_CACHE_TOKENS = 2048
_STEPPED_EVERY_S = 1.0

_log = logging.getLogger("olla.runner.child")

Work = tuple[Generate, PlacedPrompt, Constraint | None] | Job | Cancel


@dataclass(frozen=True, slots=True)
class Served:
    """What answers requests: the engine writes text, the embedder makes vectors and scores."""

    engine: Engine | NoEngine
    embedder: Embedder

    @property
    def has_work(self) -> bool:
        return self.engine.has_work or self.embedder.has_work


def main() -> int:
    # The libraries we load print to stdout as they please. The daemon reads messages there,
    # so messages take a private copy of fd 1, and fd 1 becomes stderr, which is the log.
    replies = FileIO(os.dup(1), "wb")
    os.dup2(2, 1)
    # Ctrl-C in the daemon's terminal reaches us too; the daemon decides when we end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    outbox = Outbox(replies)
    try:
        return serve(sys.stdin.buffer, outbox)
    except Exception:  # noqa: BLE001 - the last chance to log why the process ends
        _log.exception("the runner crashed")
        return 1


class Outbox:
    """Writes whole messages from any thread."""

    def __init__(self, stream: FileIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, *messages: FromRunner) -> None:
        data = b"".join(encode(message) for message in messages)
        with self._lock:
            while data:
                data = data[self._stream.write(data) or 0 :]


def serve(requests: BinaryIO, outbox: Outbox) -> int:
    """Load the model that the first message names, then answer until stdin ends."""
    body = read_message(requests)
    first = None if body is None else decode_to_runner(body)
    if not isinstance(first, Load):
        return 0
    configure_logging(debug=first.debug, log=first.log)
    inbox: queue.SimpleQueue[ToRunner] = queue.SimpleQueue()
    threading.Thread(target=read_until_end, args=(requests, inbox), daemon=True).start()
    try:
        served = load(first, outbox)
    except OllaError as error:
        outbox.send(failure(0, error))
        return 1
    work: queue.SimpleQueue[Work] = queue.SimpleQueue()
    threading.Thread(target=tokenize, args=(served, inbox, work, outbox), daemon=True).start()
    run(served, work, outbox)
    return 0


def read_until_end(requests: BinaryIO, inbox: queue.SimpleQueue[ToRunner]) -> None:
    """Pass messages on; end the process when there are no more."""
    try:
        while (body := read_message(requests)) is not None:
            inbox.put(decode_to_runner(body))
    except (EOFError, ValueError, msgspec.MsgspecError):
        _log.exception("a message makes no sense")
    finally:
        os._exit(0)


def load(request: Load, outbox: Outbox) -> Served:
    """Load the model, telling the daemon how far it is and what has been loaded."""
    if is_encoder(request.files):
        return serve_encoder(request, outbox)
    started = time.monotonic()
    last_report = 0.0

    def on_progress(completed_bytes: int, total_bytes: int) -> None:
        nonlocal last_report
        if time.monotonic() - last_report > _PROGRESS_EVERY_S:
            last_report = time.monotonic()
            outbox.send(LoadProgress(completed_bytes, total_bytes))

    def by(plan: Plan | None) -> tuple[LoadedModel, Engine]:
        model = _load_model(request.files, request, on_progress, plan)
        draft = None
        if request.draft_files and request.speculate != "off":
            beside = msgspec.structs.replace(request, device=str(model.device))
            draft = _load_model(request.draft_files, beside, lambda completed, total: None)
            check_draft(model, draft)
        return model, make_engine(model, request, draft)

    (model, engine), plan, note = first_that_fits(choose_plan(request, gpus()), by)
    loaded = describe(model, engine, plan, note)
    outbox.send(loaded)
    seconds = time.monotonic() - started
    _log.info(
        "loaded architecture=%s device=%s dtype=%s bytes=%d cache_tokens=%d seconds=%.2f note=%r",
        loaded.architecture, loaded.device, loaded.dtype, loaded.total_bytes,
        engine.num_cache_tokens, seconds, note,
    )  # fmt: skip
    config = model.network.config
    reader = InputReader(model.tokenizer, config.vocab_size, config.context_length)
    head = decoder_head(request.files, model.device)
    return Served(engine, Embedder(PooledDecoder(model.network, head, model.device), reader))


def _load_model(
    files: Files, request: Load, on_progress: OnProgress, plan: Plan | None = None
) -> LoadedModel:
    return load_model(
        files,
        request.dtype,
        request.device,
        request.num_threads,
        on_progress,
        quantize=request.quantize,
        kv_cache_type=request.kv_cache_type,
        plan=plan,
    )


def serve_encoder(request: Load, outbox: Outbox) -> Served:
    """Load a model that writes no text."""
    # Imported here, since transformers takes seconds that other models do not spend.
    from olla.engine.encoder import load_encoder  # noqa: PLC0415

    encoder = load_encoder(request.files, request.dtype, request.device, request.num_threads)
    loaded = describe_encoder(encoder)
    outbox.send(loaded)
    _log.info(
        "loaded architecture=%s device=%s dtype=%s bytes=%d",
        loaded.architecture, loaded.device, loaded.dtype, loaded.total_bytes,
    )  # fmt: skip
    reader = InputReader(encoder.tokenizer, encoder.model.vocab_size, encoder.context_length)
    return Served(NoEngine(reader), Embedder(encoder.model, reader))


def make_engine(model: LoadedModel, request: Load, draft: LoadedModel | None = None) -> Engine:
    """An engine whose cache takes what the user says, or a share of the free memory.

    With a model that drafts, the two caches take it together.

    On a GPU the cache is made now, so that too little memory shows at the load: a cache that does
    not fit is halved as long as it holds one window.
    """
    config = model.network.config
    speculation = speculation_of(model, draft, request.speculate)
    num_tokens = cache_tokens(
        cache_bytes_per_token(models_of(model, speculation)),
        config.context_length,
        BLOCK_SIZE,
        request.kv_cache_bytes,
        cache_budget(model.device),
    )
    most = request.max_running
    is_on_cpu = model.device.type == "cpu"
    wait = (lambda: None) if is_on_cpu else synchronize
    profile = StageTimes(_log.info, wait) if request.profile else None
    engine_of = partial(Engine, model, max_running=most, profile=profile, speculation=speculation)
    if is_on_cpu:
        return engine_of(num_tokens)
    while True:
        try:
            engine = engine_of(num_tokens)
            engine.warm_up()
        except OutOfMemory:
            num_tokens //= 2
            if num_tokens < min(config.context_length, _LEAST_CACHE_TOKENS):
                raise
            _log.warning("the cache does not fit, trying half tokens=%d", num_tokens)
        else:
            return engine


def describe(model: LoadedModel, engine: Engine, plan: Plan | None, note: str) -> Loaded:
    """What the daemon is told. On a CPU, a cache costs memory only as it fills."""
    config = model.network.config
    is_on_gpu = model.device.type != "cpu"
    share = plan.num_gpu_layers / len(plan.layers) if plan and plan.layers else float(is_on_gpu)
    cache_bytes = engine.num_cache_tokens * engine.cache_bytes_per_token * is_on_gpu
    total_bytes = engine.num_bytes + cache_bytes
    return Loaded(
        architecture=config.architecture,
        context_length=min(config.context_length, engine.num_cache_tokens),
        total_bytes=total_bytes,
        bytes_on_device=int(total_bytes * share),
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        bos_token=model.special_tokens.bos_token,
        eos_token=model.special_tokens.eos_token,
        note=note,
    )


def describe_encoder(encoder: LoadedEncoder) -> Loaded:
    return Loaded(
        architecture=encoder.architecture,
        context_length=encoder.context_length,
        total_bytes=encoder.num_bytes,
        bytes_on_device=0 if encoder.device.type == "cpu" else encoder.num_bytes,
        device=str(encoder.device),
        dtype=str(encoder.dtype).removeprefix("torch."),
    )


def tokenize(
    served: Served,
    inbox: queue.SimpleQueue[ToRunner],
    work: queue.SimpleQueue[Work],
    outbox: Outbox,
) -> None:
    """Answer what needs no forward pass, and pass the rest on in order."""
    engine = served.engine
    while True:
        message = inbox.get()
        try:
            if isinstance(message, Tokenize):
                special = message.add_special_tokens
                tokens = engine.reader.tokenize(message.text, message.images, special)
                outbox.send(Tokens(message.id, tokens))
            elif isinstance(message, Detokenize):
                outbox.send(Text(message.id, engine.decode(message.tokens)))
            elif isinstance(message, Generate):
                prompt, constraint = engine.reader.read(message), engine.constrain(message.grammar)
                engine.prepare(message)
                # What the images' files held lives on in the prompt.
                request = msgspec.structs.replace(message, images=[])
                work.put((request, prompt, constraint))
            elif isinstance(message, Embed | Rerank):
                work.put(served.embedder.prepare(message))
            elif isinstance(message, Cancel):
                work.put(message)
        except OllaError as error:
            outbox.send(failure(getattr(message, "id", 0), error))


def run(served: Served, work: queue.SimpleQueue[Work], outbox: Outbox) -> None:
    """Step while there is something to do; between steps, take in what has come."""
    meter = Meter(served.engine)
    while True:
        while not served.has_work or not work.empty():
            take(served, work.get(), outbox)
        started = time.monotonic()
        messages = served.engine.step() + served.embedder.step()
        messages += meter.stepped(started, is_last=not served.has_work)
        if messages:
            outbox.send(*messages)


class Meter:
    """How long steps took, told at most once a second while there is work, and at its end."""

    def __init__(self, engine: Engine | NoEngine) -> None:
        self._engine = engine
        self._seconds: list[float] = []
        self._told = 0.0

    def stepped(self, started: float, *, is_last: bool) -> list[FromRunner]:
        now = time.monotonic()
        self._seconds.append(now - started)
        if now - self._told < _STEPPED_EVERY_S and not is_last:
            return []
        engine, self._told = self._engine, now
        message = Stepped(self._seconds, engine.num_used_tokens, engine.num_cache_tokens)
        self._seconds = []
        return [message]


def take(served: Served, item: Work, outbox: Outbox) -> None:
    engine, embedder = served.engine, served.embedder
    if isinstance(item, Job):
        embedder.add(item)
        return
    if isinstance(item, Cancel):
        engine.cancel(item.id)
        embedder.cancel(item.id)
        return
    request, prompt, constraint = item
    try:
        engine.add(request, prompt.tokens, constraint, prompt.images)
    except OllaError as error:
        outbox.send(failure(request.id, error))


def failure(request_id: int, error: OllaError) -> Failed:
    """What the daemon is told of an error; it raises the same kind on its side."""
    kinds = {
        PromptTooLong: FailureKind.PROMPT_TOO_LONG,
        OutOfMemory: FailureKind.OUT_OF_MEMORY,
        BadInput: FailureKind.BAD_INPUT,
    }
    found = [kind for error_class, kind in kinds.items() if isinstance(error, error_class)]
    return Failed(request_id, found[0] if found else FailureKind.RUNNER, str(error))
