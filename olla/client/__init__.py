"""The command line's client of the daemon, on http.client: no asyncio, no retries.

Knows the daemon's JSON (spec/api.md) and nothing about the terminal. Every call opens its own
connection and closes it when the call ends, so leaving a stream early tells the daemon at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from itertools import count
from pathlib import Path
from typing import IO
from urllib.parse import quote

from olla import __version__
from olla.address import Address
from olla.client.replies import (
    Collected,
    EmbedSettings,
    Json,
    ListedModel,
    QueuedRequest,
    ReplySettings,
    RunningModel,
    ShownModel,
    Versions,
    chunk_from_json,
    collected_from_json,
    create_to_json,
    images_to_json,
    listed_from_json,
    loading_from_json,
    message_to_json,
    progress_from_json,
    queued_from_json,
    running_from_json,
    shown_from_json,
    transfer_to_json,
    usage_from_json,
)
from olla.errors import ApiError, ClientError, ServerUnreachable
from olla.messages import Message
from olla.requests import (
    PLAIN_TRANSFER,
    ChatChunk,
    CreateRequest,
    Progress,
    TransferOptions,
    Usage,
)

CONNECT_TIMEOUT_S = 10.0
HEARTBEAT_TIMEOUT_S = 10.0
UPLOAD_CHUNK_BYTES = 1 << 20


class Client:
    """Calls of the daemon at one address.

    `id` is what the ids of all its requests begin with.

    Every method raises ServerUnreachable when nothing answers, ApiError when the daemon refuses
    and ClientError when the connection breaks.
    """

    def __init__(self, address: Address, api_key: str = "") -> None:
        self._address = address
        self._api_key = api_key
        self._numbers = count(1)
        self.id = os.urandom(6).hex()

    def is_reachable(self) -> bool:
        """Whether something that speaks HTTP answers at the address."""
        try:
            with self._exchange("HEAD", "/", timeout_s=HEARTBEAT_TIMEOUT_S) as response:
                self._check(response)
        except ServerUnreachable:
            return False
        return True

    def versions(self) -> Versions:
        reply = self._call("GET", "/api/version")
        return Versions(api=reply.get("version", ""), olla=reply.get("olla", ""))

    def list(self) -> tuple[ListedModel, ...]:
        models = self._call("GET", "/api/tags").get("models") or ()
        return tuple(listed_from_json(model) for model in models)

    def running(self) -> tuple[RunningModel, ...]:
        return self.activity()[0]

    def activity(self) -> tuple[tuple[RunningModel, ...], tuple[QueuedRequest, ...]]:
        """The running models, and the requests that wait, at one moment."""
        reply = self._call("GET", "/api/ps")
        running = tuple(running_from_json(model) for model in reply.get("models") or ())
        return running, tuple(queued_from_json(entry) for entry in reply.get("queue") or ())

    def waiting(self) -> tuple[tuple[Progress, ...], tuple[QueuedRequest, ...]]:
        """How far the models are that are being loaded, each by its name as the status, and the
        requests that wait, of all clients, at one moment.
        """
        reply = self._call("GET", "/api/ps", timeout_s=HEARTBEAT_TIMEOUT_S)
        loading = tuple(loading_from_json(model) for model in reply.get("loading") or ())
        return loading, tuple(queued_from_json(entry) for entry in reply.get("queue") or ())

    def show(self, model: str, *, verbose: bool = False) -> ShownModel:
        return shown_from_json(
            self._call("POST", "/api/show", {"model": model, "verbose": verbose})
        )

    def copy(self, source: str, destination: str) -> None:
        self._call("POST", "/api/copy", {"source": source, "destination": destination})

    def delete(self, model: str) -> None:
        self._call("DELETE", "/api/delete", {"model": model})

    def shutdown(self) -> None:
        self._call("POST", "/api/shutdown")

    def load(self, settings: ReplySettings) -> None:
        """Bring the model into memory, or take it out with a keep-alive of 0."""
        for _ in self._stream("/api/generate", settings.to_json()):
            pass

    def unload(self, model: str) -> None:
        self.load(ReplySettings(model, keep_alive=0))

    def generate(
        self, settings: ReplySettings, prompt: str, images: Sequence[bytes] = ()
    ) -> Generator[ChatChunk, None, None]:
        body = {**settings.to_json(), "prompt": prompt, **images_to_json(images)}
        return _until_done(self._stream("/api/generate", body))

    def embed(self, settings: EmbedSettings, text: str) -> Sequence[float]:
        """The vector of one text."""
        reply = self._call("POST", "/api/embed", settings.to_json() | {"input": text})
        vectors: Sequence[Sequence[float]] = reply.get("embeddings") or ((),)
        return vectors[0]

    def chat(
        self, settings: ReplySettings, messages: tuple[Message, ...]
    ) -> Generator[ChatChunk, None, None]:
        body = settings.to_json() | {"messages": [message_to_json(turn) for turn in messages]}
        return _until_done(self._stream("/api/chat", body))

    def pull(
        self, model: str, options: TransferOptions = PLAIN_TRANSFER
    ) -> Generator[Progress, None, None]:
        return _until_success(self._stream("/api/pull", transfer_to_json(model, options)))

    def push(
        self, model: str, options: TransferOptions = PLAIN_TRANSFER, destination: str = ""
    ) -> Generator[Progress, None, None]:
        """Send a model to where its own name, or `destination`, says."""
        where = {"destination": destination} if destination else {}
        body = {**transfer_to_json(model, options), **where}
        return _until_success(self._stream("/api/push", body))

    def create(self, request: CreateRequest) -> Iterator[Progress]:
        """Make a model of blobs that are uploaded already."""
        return _until_success(self._stream("/api/create", create_to_json(request)))

    def has_blob(self, digest: str) -> bool:
        with self._exchange("HEAD", f"/api/blobs/{digest}") as response:
            return response.status == 200

    def upload_blob(self, digest: str, path: Path, on_progress: Callable[[int], None]) -> None:
        """Send the file unless the daemon has it. `on_progress` is told the bytes sent so far."""
        if self.has_blob(digest):
            return
        with path.open("rb") as file:
            self.send_blob(digest, file, path.stat().st_size, on_progress)

    def send_blob(
        self, digest: str, file: IO[bytes], size_bytes: int, on_progress: Callable[[int], None]
    ) -> None:
        """Send so many bytes of an open file."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size_bytes)}
        chunks = _read_chunks(file, size_bytes, on_progress)
        with self._exchange("POST", f"/api/blobs/{digest}", chunks, headers) as response:
            if response.status >= 400:
                raise ApiError(_error_text(response), response.status)

    def usage(self) -> Usage:
        """What the stored models take of the disk."""
        return usage_from_json(self._call("GET", "/api/du"))

    def verify(self, models: Sequence[str]) -> Iterator[Progress]:
        """Hash what is stored again; ends in an ApiError if a model is broken."""
        return _until_success(self._stream("/api/verify", {"models": list(models)}))

    def collect(self, *, dry_run: bool, everything: bool) -> Collected:
        """Remove the files that no model needs, or only say which they are."""
        body = {"dry_run": dry_run, "all": everything}
        return collected_from_json(self._call("POST", "/api/gc", body))

    def export_model(
        self, model: str, file: IO[bytes], on_progress: Callable[[int, int], None]
    ) -> None:
        """Write the model's archive. `on_progress` is told the bytes written and all of them."""
        with self._exchange("GET", f"/api/export?model={quote(model, safe='')}") as response:
            self._check(response)
            total_bytes, written_bytes = response.length or 0, 0
            while chunk := response.read(UPLOAD_CHUNK_BYTES):
                file.write(chunk)
                written_bytes += len(chunk)
                on_progress(written_bytes, total_bytes)
        if written_bytes != total_bytes:
            raise ClientError("the olla server ended the archive early")

    def import_model(self, model: str, manifest: str) -> str:
        """Make a model of blobs that are uploaded already; its name."""
        reply = self._call("POST", "/api/import", {"model": model, "manifest": manifest})
        return str(reply.get("model", model))

    def lines(self, path: str, body: Json) -> Generator[bytes, None, None]:
        """The lines of a streamed reply, as they stand and as soon as they come."""
        with self.stream(path, body) as response:
            yield from response

    @contextmanager
    def stream(self, path: str, body: Json, *, closes: bool = False) -> Iterator[HTTPResponse]:
        """A reply that has begun. With `closes`, the end of the connection is its end."""
        data, headers = _encode(body)
        if closes:
            headers = {**headers, "Connection": "close"}
        with self._exchange("POST", path, data, headers) as response:
            if response.status >= 400:
                text = f"{response.status} {response.reason}: {_error_text(response)}"
                raise ApiError(text, response.status)
            yield response

    def _call(
        self, method: str, path: str, body: Json | None = None, timeout_s: float | None = None
    ) -> Json:
        with self._exchange(method, path, *_encode(body), timeout_s) as response:
            self._check(response)
            data = response.read()
        return _decode(data) if data else {}

    def _stream(self, path: str, body: Json) -> Generator[Json, None, None]:
        with closing(self.lines(path, body)) as lines:
            for line in lines:
                reply = _decode(line)
                if reply.get("error"):
                    raise ApiError(str(reply["error"]), 200)
                yield reply

    @staticmethod
    def _check(response: HTTPResponse) -> None:
        if response.status >= 400:
            raise ApiError(_error_text(response) or response.reason, response.status)

    @contextmanager
    def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[HTTPResponse]:
        """One request. Without a timeout the reply may take as long as it takes to load a model."""
        connection = self._connect()
        connection.sock.settimeout(timeout_s)
        headers = {**self._own_headers(), **(headers or {})}
        try:
            # A daemon that refuses an upload may close before it has read all: its answer counts.
            with suppress(BrokenPipeError):
                connection.request(method, self._address.path + path, body, headers)
            # The response holds the socket once the daemon said "Connection: close".
            with connection.getresponse() as response:
                yield response
        except (HTTPException, OSError) as error:
            raise ClientError(f"lost the connection to the olla server: {error}") from error
        finally:
            connection.close()

    def _own_headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
        request_id = f"{self.id}-{next(self._numbers)}"
        return {"User-Agent": f"olla/{__version__}", "X-Request-Id": request_id, **key}

    def _connect(self) -> HTTPConnection:
        kind = HTTPSConnection if self._address.scheme == "https" else HTTPConnection
        connection = kind(self._address.connect_host, self._address.port, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.connect()
        except OSError as error:
            raise ServerUnreachable(
                "could not connect to olla server, run 'olla serve' to start it"
            ) from error
        return connection


def _encode(body: Json | None) -> tuple[bytes | None, Mapping[str, str]]:
    if body is None:
        return None, {}
    return json.dumps(body).encode(), {"Content-Type": "application/json"}


def _decode(data: bytes) -> Json:
    try:
        reply = json.loads(data)
    except ValueError as error:
        raise ClientError("the olla server sent a reply that is not JSON") from error
    if not isinstance(reply, dict):
        raise ClientError("the olla server sent a reply that is not a JSON object")
    return reply


def _error_text(response: HTTPResponse) -> str:
    data = response.read()
    try:
        error = _decode(data).get("error", "")
        return str(error.get("message", "") if isinstance(error, dict) else error)
    except ClientError:
        text = data.decode(errors="replace").strip()
        is_page = text.startswith("<")
        return "a web page came back: the server at this address is not olla" if is_page else text


def _read_chunks(
    file: IO[bytes], size_bytes: int, on_progress: Callable[[int], None]
) -> Iterator[bytes]:
    sent_bytes = 0
    while sent_bytes < size_bytes:
        chunk = file.read(min(UPLOAD_CHUNK_BYTES, size_bytes - sent_bytes))
        if not chunk:
            raise ClientError(f"{file.name} became shorter while it was uploaded")
        yield chunk
        sent_bytes += len(chunk)
        on_progress(sent_bytes)


def _until_done(replies: Generator[Json, None, None]) -> Generator[ChatChunk, None, None]:
    """Chunks up to the last one; a reply that ends without it was cut off."""
    with closing(replies):
        for reply in replies:
            yield chunk_from_json(reply)
            if reply.get("done"):
                return
    raise ClientError("the olla server ended the reply early")


def _until_success(
    replies: Generator[Json, None, None],
) -> Generator[Progress, None, None]:
    """Reports up to the end; a transfer whose last word is not "success" was cut off."""
    status = ""
    with closing(replies):
        for reply in replies:
            progress = progress_from_json(reply)
            status = progress.status
            yield progress
    if status != "success":
        raise ClientError("the olla server ended the transfer early")
