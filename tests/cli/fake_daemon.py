"""A daemon that answers from a script: real HTTP on loopback, Ollama's JSON, no models.

`script` says what a route answers; `requests` is what came in. Routes without a script answer
404, and `HEAD /` answers as a living daemon does.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = Mapping[str, Any]

TAGS: Mapping[str, Any] = {
    "models": [
        {
            "name": "smollm2:135m",
            "model": "smollm2:135m",
            "modified_at": "2020-01-01T12:00:00.123456789+02:00",
            "size": 98_000_000,
            "digest": "a" * 64,
            "details": {"family": "llama"},
        }
    ]
}
SHOW: Mapping[str, Any] = {
    "license": "First line\n\n second line\nthird line",
    "modelfile": "# Modelfile\nFROM x",
    "parameters": 'stop                           "<|im_end|>"\ntemperature                    0.5',
    "template": "{{ .Prompt }}",
    "system": "Be brief.",
    "details": {"family": "llama", "parameter_size": "134.52M", "quantization_level": "Q4_1"},
    "model_info": {
        "general.architecture": "llama",
        "general.parameter_count": 134_515_008,
        "llama.context_length": 8192,
        "llama.embedding_length": 576,
    },
    "capabilities": ["completion"],
    "modified_at": "2020-01-01T12:00:00Z",
}


@dataclass(frozen=True)
class Reply:
    """One answer: JSON lines (one object when there is one), or raw bytes."""

    lines: Sequence[Json] = ()
    status: int = 200
    raw: bytes = b""
    breaks_off: bool = False
    on_arrival: Callable[[], None] = lambda: None
    before_line: Callable[[int], None] = lambda _index: None


@dataclass
class Request:
    method: str
    path: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class FakeDaemon:
    """What the server's threads and the test share."""

    port: int = 0
    replies: dict[str, list[Reply]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    client_left: threading.Event = field(default_factory=threading.Event)
    stop: Callable[[], None] = lambda: None

    def script(self, route: str, *replies: Reply) -> None:
        """Answer `route` ("POST /api/chat") with each reply in turn; the last one stays."""
        self.replies[route] = list(replies)

    def answer(self, request: Request) -> Reply:
        self.requests.append(request)
        replies = self.replies.get(f"{request.method} {request.path}")
        if replies is None:
            return Reply(raw=b"404 page not found", status=404)
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        reply.on_arrival()
        return reply

    def sent(self, route: str) -> list[Request]:
        return [request for request in self.requests if f"{request.method} {request.path}" == route]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def running_daemon() -> Iterator[FakeDaemon]:
    daemon = FakeDaemon()
    daemon.script("HEAD /", Reply())
    daemon.script("GET /api/tags", Reply([TAGS]))
    daemon.script("POST /api/show", Reply([SHOW]))
    daemon.script("POST /api/generate", generated("Hello", " there"))
    server = _Server(daemon)
    daemon.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    daemon.stop = stop
    try:
        yield daemon
    finally:
        stop()


def generated(*words: str, **last: Any) -> Reply:
    lines: list[Json] = [{"response": word, "done": False} for word in words]
    return Reply([*lines, {"response": "", "done": True, "done_reason": "stop", **last}])


def chatted(*words: str) -> Reply:
    lines: list[Json] = [{"message": {"content": word}, "done": False} for word in words]
    return Reply([*lines, {"message": {"content": ""}, "done": True, "done_reason": "stop"}])


def failed(status: int, text: str) -> Reply:
    return Reply([{"error": text}], status=status)


class _Server(ThreadingHTTPServer):
    def __init__(self, fake: FakeDaemon) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fake = fake


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def fake(self) -> FakeDaemon:
        assert isinstance(self.server, _Server)
        return self.server.fake

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        request = Request(self.command, self.path, self.rfile.read(length))
        reply = self.fake.answer(request)
        self.close_connection = True
        try:
            self.send(reply)
        except (BrokenPipeError, ConnectionResetError):
            self.fake.client_left.set()

    def send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Connection", "close")
        if self.command == "HEAD" or not reply.lines:
            self.send_header("Content-Length", str(len(reply.raw)))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else reply.raw)
        else:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.stream(reply)

    def stream(self, reply: Reply) -> None:
        for index, line in enumerate(reply.lines):
            reply.before_line(index)
            self.send_chunk(json.dumps(line).encode() + b"\n")
        if not reply.breaks_off:
            self.send_chunk(b"")

    def send_chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def log_message(self, *args: object) -> None:
        """Say nothing: the tests' output is the command's."""


for _method in ("GET", "HEAD", "POST", "DELETE"):
    setattr(_Handler, f"do_{_method}", _Handler.answer)
