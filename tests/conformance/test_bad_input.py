"""Requests that cannot be answered are refused in Ollama's words, and change nothing."""

from __future__ import annotations

import base64
import hashlib
import socket

import pytest

from tests.conformance.conftest import MODEL
from tests.conformance.daemon import Daemon
from tests.conformance.stored import Store

pytestmark = [pytest.mark.weights, pytest.mark.usefixtures("store")]

FULL_NAME = f"registry.ollama.ai/library/{MODEL}"
HELLO = [{"role": "user", "content": "hello"}]
NOWHERE = "sha256:" + 64 * "0"


# Blobs


@pytest.mark.parametrize("method", ["POST", "HEAD"])
@pytest.mark.parametrize("digest", ["x", "sha256:12", "sha256:" + 65 * "a", "sha1:" + 64 * "a"])
def test_a_blob_needs_a_digest(daemon: Daemon, method: str, digest: str) -> None:
    answer = daemon.ask(method, f"/api/blobs/{digest}", b"data" if method == "POST" else None)

    assert answer.status == 400
    assert method == "HEAD" or answer.error == "invalid digest format"


def test_a_blob_that_does_not_hash_to_its_digest_is_not_kept(daemon: Daemon) -> None:
    actual = "sha256:" + hashlib.sha256(b"data").hexdigest()

    answer = daemon.ask("POST", f"/api/blobs/{NOWHERE}", b"data")

    assert answer.status == 400
    assert answer.error == f'digest mismatch, expected "{NOWHERE}", got "{actual}"'
    assert daemon.ask("HEAD", f"/api/blobs/{NOWHERE}") == (404, b"")
    assert daemon.ask("HEAD", f"/api/blobs/{actual}") == (404, b"")


def test_a_blob_whose_upload_breaks_off_is_not_kept(daemon: Daemon) -> None:
    data = bytes(1000)
    digest = hashlib.sha256(data).hexdigest()
    head = f"POST /api/blobs/sha256:{digest} HTTP/1.1\r\nHost: localhost\r\n"
    with socket.create_connection(("127.0.0.1", daemon.port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data[:-1])
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(10)
        assert not connection.recv(65536).startswith(b"HTTP/1.1 20")

    assert daemon.ask("HEAD", f"/api/blobs/sha256:{digest}").status == 404


# Requests

POSTS = ["generate", "chat", "show", "create", "pull", "copy"]
ROUTES = [*(("POST", f"/api/{name}") for name in POSTS), ("DELETE", "/api/delete")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "missing request body"),
        (b" \r\n\t", "missing request body"),
        (b"{", "unexpected EOF"),
        (b'{"model":"m', "unexpected EOF"),
        (b"nonsense", "invalid character 'n' looking for beginning of value"),
        (b"\xff\xfe", "invalid character '\N{REPLACEMENT CHARACTER}' looking for beginning of "
         "value"),
        (b'{"model":NaN}', "invalid character 'N' looking for beginning of value"),
        (100_000 * b"[", "exceeded max depth"),
        (b'{"a":' + 5000 * b"9" + b"}", "json: number out of range"),
    ],
    ids=lambda value: value[:9] if isinstance(value, bytes) else "",
)  # fmt: skip
def test_a_body_that_is_no_json_is_refused(
    daemon: Daemon, method: str, path: str, body: bytes, error: str
) -> None:
    answer = daemon.ask(method, path, body)

    assert (answer.status, answer.error) == (400, error)


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    ("body", "kind"), [([], "array"), ("x", "string"), (1, "number 1"), (True, "bool")]
)
def test_a_body_of_the_wrong_type_is_refused(
    daemon: Daemon, method: str, path: str, body: object, kind: str
) -> None:
    name = path.removeprefix("/api/").capitalize()

    answer = daemon.ask(method, path, body)

    error = f"json: cannot unmarshal {kind} into Go value of type api.{name}Request"
    assert (answer.status, answer.error) == (400, error)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("generate", {"model": 1}),
        ("generate", {"prompt": []}),
        ("generate", {"stream": "no"}),
        ("generate", {"context": "x"}),
        ("generate", {"context": [1.5]}),
        ("generate", {"options": []}),
        ("generate", {"images": [1]}),
        ("generate", {"raw": 1}),
        ("chat", {"messages": "hello"}),
        ("chat", {"messages": ["hello"]}),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
        ("chat", {"messages": [{"role": 1}]}),
        ("chat", {"tools": {}}),
        ("chat", {"messages": [{"tool_calls": [{"function": {"arguments": "{}"}}]}]}),
        ("create", {"model": "bad", "files": []}),
        ("create", {"model": "bad", "files": {"a": 1}}),
        ("create", {"model": "bad", "from": MODEL, "parameters": [1]}),
        ("create", {"model": "bad", "from": MODEL, "license": 1}),
        ("create", {"model": "bad", "from": MODEL, "messages": "hello"}),
        ("copy", {"source": {}, "destination": "x"}),
        ("pull", {"model": [], "stream": False}),
        ("show", {"model": MODEL, "verbose": "yes"}),
    ],
)
def test_a_field_of_the_wrong_type_is_refused(
    daemon: Daemon, path: str, fields: dict[str, object]
) -> None:
    answer = daemon.ask("POST", f"/api/{path}", {"model": MODEL, **fields})

    assert answer.status == 400
    assert answer.error.startswith("json: cannot unmarshal ")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"num_ctx": "big"}, 'option "num_ctx" must be of type integer'),
        ({"num_ctx": [1]}, 'option "num_ctx" must be of type integer'),
        ({"num_ctx": 2**70}, 'option "num_ctx" must be of type integer'),
        ({"seed": True}, 'option "seed" must be of type integer'),
        ({"seed": 1e300}, 'option "seed" must be of type integer'),
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"top_p": {}}, 'option "top_p" must be of type float32'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
    ],
)
def test_an_option_of_the_wrong_type_is_refused(
    daemon: Daemon, store: Store, options: dict[str, object], error: str
) -> None:
    chat = {"model": MODEL, "messages": HELLO, "options": options}
    generate = {"model": MODEL, "prompt": "hello", "options": options}

    answers = [
        daemon.ask("POST", "/api/chat", chat),
        daemon.ask("POST", "/api/generate", generate),
        store.create(**{"from": MODEL}, parameters=options),
    ]

    assert [(answer.status, answer.error) for answer in answers] == 3 * [(400, error)]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"keep_alive": "60"}, 'time: missing unit in duration "60"'),
        ({"keep_alive": "soon"}, 'time: invalid duration "soon"'),
        ({"keep_alive": ""}, 'time: invalid duration ""'),
        ({"keep_alive": True}, "Unsupported type: 'bool'"),
        ({"think": True}, f'"{MODEL}" does not support thinking'),
        ({"think": "high"}, f'"{MODEL}" does not support thinking'),
        ({"think": "hard"}, 'invalid think value: "hard" (must be "high", "medium", "low", '
         '"max", true, or false)'),
        ({"think": 1}, 'think must be a boolean or string ("high", "medium", "low", "max", true, '
         "or false)"),
        ({"top_logprobs": -1}, "top_logprobs must be between 0 and 20"),
        ({"top_logprobs": 21}, "top_logprobs must be between 0 and 20"),
        ({"format": "xml"}, 'invalid format: "xml"; expected "json" or a valid JSON Schema '
         "object"),
        ({"format": 7}, 'invalid format: 7; expected "json" or a valid JSON Schema object'),
    ],
)  # fmt: skip
def test_what_chat_and_generate_cannot_do_is_refused(
    daemon: Daemon, fields: dict[str, object], error: str
) -> None:
    chat = daemon.ask("POST", "/api/chat", {"model": MODEL, "messages": HELLO, **fields})
    generate = daemon.ask("POST", "/api/generate", {"model": MODEL, "prompt": "x", **fields})

    assert (chat.status, chat.error) == (generate.status, generate.error) == (400, error)


IMAGE = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("path", "fields", "error"),
    [
        ("chat", {"messages": HELLO, "tools": [TOOL]}, f"{FULL_NAME} does not support tools"),
        ("chat", {"messages": [{**HELLO[0], "images": [IMAGE]}]},
         f"{FULL_NAME} does not support vision"),
        ("generate", {"prompt": "x", "images": [IMAGE]}, f"{FULL_NAME} does not support vision"),
        ("generate", {"prompt": "x", "images": ["?"]},
         "images[0]: illegal base64 data at input byte 0"),
        ("generate", {"prompt": "x", "suffix": "y"}, f"{FULL_NAME} does not support insert"),
        ("generate", {"prompt": "x", "raw": True, "system": "s"},
         "raw mode does not support template, system, or context"),
        ("generate", {"prompt": "x", "context": [10**9]},
         "token 1000000000 is not in the vocabulary of 49152"),
        ("generate", {"prompt": "x", "context": [-1]},
         "token -1 is not in the vocabulary of 49152"),
    ],
)  # fmt: skip
def test_what_the_model_cannot_do_is_refused(
    daemon: Daemon, path: str, fields: dict[str, object], error: str
) -> None:
    answer = daemon.ask("POST", f"/api/{path}", {"model": MODEL, **fields})

    assert (answer.status, answer.error) == (400, error)


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{% for %}", "template error: line 1: "),
        ("{% for i in range(10**9) %}x{% endfor %}", "template error: Range too big."),
        ("{{ 'x' * 10**10 }}", "template error: it makes a value larger than "),
        ("{{ ''.__class__.__mro__ }}", "template error: access to attribute '__class__' "),
        ("{{ raise_exception('no') }}", "template error: no"),
    ],
)
def test_a_hostile_template_is_refused(daemon: Daemon, template: str, error: str) -> None:
    request = {"model": MODEL, "prompt": "x", "template": template}

    answer = daemon.ask("POST", "/api/generate", request)

    assert answer.status == 400
    assert answer.error.startswith(error)


# Names


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", "generate", {"model": "gone", "prompt": "x"}, 404, "model 'gone' not found"),
        ("POST", "generate", {"model": ""}, 404, "model '' not found"),
        ("POST", "chat", {"model": "gone", "messages": HELLO}, 404, "model 'gone' not found"),
        ("POST", "chat", {"messages": HELLO}, 400, "model is required"),
        ("POST", "show", {"model": "gone"}, 404, "model 'gone:latest' not found"),
        ("POST", "show", {}, 400, "model is required"),
        ("POST", "copy", {"source": "gone", "destination": "x"}, 404, 'model "gone" not found'),
        ("DELETE", "delete", {"model": "gone"}, 404, "model 'gone' not found"),
        ("DELETE", "delete", {}, 400, "model is required"),
        ("POST", "pull", {"model": "gone", "stream": False}, 500,
         "pull model manifest: file does not exist (asked package; see OLLA_SOURCES)"),
        ("POST", "create", {"model": "bad", "from": "gone", "stream": False}, 500,
         "pull model manifest: file does not exist (asked package; see OLLA_SOURCES)"),
    ],
)  # fmt: skip
def test_a_model_that_is_not_there_is_told_in_each_routes_words(
    daemon: Daemon, method: str, path: str, body: object, status: int, error: str
) -> None:
    answer = daemon.ask(method, f"/api/{path}", body)

    assert (answer.status, answer.error) == (status, error)


@pytest.mark.parametrize(
    "name",
    ["-a", ".a", "a:", ":b", "a/b/", "m:t/x", 81 * "m", "a b", "ä", "../../etc/passwd",
     "a/../b", "a\0", "a/b/c/d/e", "a@sha256:" + 64 * "0"],
)  # fmt: skip
def test_a_name_that_is_none_is_told_in_each_routes_words(daemon: Daemon, name: str) -> None:
    posts = {
        "generate": {"model": name, "prompt": "x"},
        "chat": {"model": name, "messages": HELLO},
        "show": {"model": name},
        "pull": {"model": name},
        "create": {"model": name, "from": MODEL},
    }
    answers = [daemon.ask("POST", f"/api/{path}", body) for path, body in posts.items()]
    source = daemon.ask("POST", "/api/copy", {"source": name, "destination": "x"})
    destination = daemon.ask("POST", "/api/copy", {"source": MODEL, "destination": name})
    delete = daemon.ask("DELETE", "/api/delete", {"model": name})

    assert {(answer.status, answer.error) for answer in answers} == {(400, "invalid model name")}
    assert (source.status, source.error) == (400, f'source "{name}" is invalid')
    assert (destination.status, destination.error) == (400, f'destination "{name}" is invalid')
    assert (delete.status, delete.error) == (400, f'name "{name}" is invalid')


def test_a_name_on_a_host_that_lacks_its_owner_is_told_so(daemon: Daemon) -> None:
    answer = daemon.ask("POST", "/api/pull", {"model": "a.b/m"})

    expected = "invalid model name (a name on a.b has an owner and a model: a.b/OWNER/MODEL)"
    assert (answer.status, answer.error) == (400, expected)


# HTTP


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/api", "/api/nothing", "/apI/tags", "/etc/passwd", "/api/blobs"])
def test_a_path_that_is_no_route_is_404(daemon: Daemon, method: str, path: str) -> None:
    assert daemon.ask(method, path) == (404, b"404 page not found")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/show"), ("GET", "/api/generate"), ("POST", "/api/tags"), ("POST", "/"),
     ("POST", "/api/delete"), ("PUT", "/api/chat"), ("GET", f"/api/blobs/{NOWHERE}"),
     ("HEAD", "/api/ps")],
)  # fmt: skip
def test_a_route_under_another_method_is_405(daemon: Daemon, method: str, path: str) -> None:
    body = b"" if method == "HEAD" else b"405 method not allowed"

    assert daemon.ask(method, path) == (405, body)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:11434"},
        {"Host": "localhost.evil.example"},
        {"Host": "93.184.216.34"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_strangers_host_or_origin_is_403(daemon: Daemon, headers: dict[str, str]) -> None:
    request = {"model": MODEL, "messages": HELLO}

    assert daemon.ask("GET", "/api/tags", headers=headers) == (403, b"")
    assert daemon.ask("POST", "/api/chat", request, headers) == (403, b"")
    assert daemon.ask("DELETE", "/api/delete", {"model": MODEL}, headers) == (403, b"")


SHOW = b"POST /api/show HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        SHOW + b"Content-Length: many\r\n\r\n",
        SHOW + b"Content-Length: -1\r\n\r\n",
        SHOW + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        SHOW + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        SHOW + b"A: b\r\n" * 20_000 + b"\r\n",
        b"GET /" + 100_000 * b"a" + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        f"POST /api/blobs/{NOWHERE} HTTP/1.1\r\nHost: localhost\r\n".encode()
        + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    ],
    ids=lambda data: repr(data[:12] + data[-12:]),
)
def test_what_is_no_http_is_refused(daemon: Daemon, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=10) as connection:
        connection.sendall(data)

        assert connection.recv(65536).split(b" ")[1] == b"400"


def test_a_body_past_the_limit_is_refused_before_it_is_read(daemon: Daemon) -> None:
    head = "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=10) as connection:
        connection.sendall(head.encode())
        reply = connection.recv(65536)

    assert reply.startswith(b"HTTP/1.1 413 ")
    assert reply.endswith(b'{"error":"request body is larger than 256 MiB"}')


def test_a_huge_body_within_the_limit_is_read(daemon: Daemon) -> None:
    answer = daemon.ask("POST", "/api/show", {"model": MODEL, "junk": 50_000_000 * "x"})

    assert answer.status == 200


def test_a_prompt_that_is_far_too_long_is_cut_or_refused(daemon: Daemon) -> None:
    request = {
        "model": MODEL,
        "prompt": 20_000 * "word ",
        "stream": False,
        "options": {"num_ctx": 32, "num_predict": 2},
    }

    cut = daemon.ask("POST", "/api/generate", request)
    refused = daemon.ask("POST", "/api/generate", {**request, "truncate": False})

    assert cut.status == 200 and cut.json["prompt_eval_count"] < 32
    assert refused.status == 400
    assert refused.error.startswith("the prompt is longer than the context length currently ")
