"""Hugging Face's protocol on loopback, as far as downloads need it, with the hub's own errors.

What uploads need is in hub_writes.py.

In a thread with a loop of its own, so that blocking clients and daemons can use it.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

MAIN = "main"
LFS_SUFFIXES = (".safetensors", ".gguf", ".bin", "tokenizer.json")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class Repo:
    """`revisions`: branch or tag -> the files there. `listed` and `sent` tell lies."""

    files: Mapping[str, bytes]
    revisions: dict[str, Mapping[str, bytes]] = field(default_factory=dict)
    is_gated: bool = False
    is_private: bool = False
    listed: dict[str, dict[str, Any]] = field(default_factory=dict)
    sent: dict[str, bytes] = field(default_factory=dict)

    def at(self, revision: str) -> Mapping[str, bytes] | None:
        named = {MAIN: self.files, **self.revisions}
        by_commit = {commit_of(files): files for files in named.values()}
        return {**by_commit, **named}.get(revision)


def commit_of(files: Mapping[str, bytes]) -> str:
    lines = (f"{name} {sha256(data)}" for name, data in sorted(files.items()))
    return hashlib.sha1("\n".join(lines).encode(), usedforsecurity=False).hexdigest()


@dataclass
class Hub:
    """`repos`: `org/name` -> what is there. `token` opens gated and private ones.

    `failures`: how many requests are still to be answered with 503.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    token: str = "hf_right"
    failures: int = 0
    requests: list[str] = field(default_factory=list)
    cdn_headers: list[Mapping[str, str]] = field(default_factory=list)
    url: str = ""

    @property
    def fetched(self) -> list[str]:
        """The files whose bytes were asked for."""
        return [
            path.partition("/resolve/")[2].partition("/")[2]
            for path in self.requests
            if "/resolve/" in path
        ]

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._count])
        app.add_routes(
            [
                web.get("/api/models/{org}/{name}", self._info),
                web.get("/api/models/{org}/{name}/revision/{revision}", self._info),
                web.get("/api/models/{org}/{name}/tree/{revision}", self._tree),
                web.get("/{org}/{name}/resolve/{revision}/{path:.+}", self._resolve),
                web.get("/cdn/{sha256}", self._cdn),
            ]
        )
        return app

    @web.middleware
    async def _count(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append(request.path)
        if self.failures:
            self.failures -= 1
            return web.Response(status=503, text="try again")
        response: web.StreamResponse = await handler(request)
        return response

    def _find(self, request: web.Request) -> tuple[Repo, Mapping[str, bytes]]:
        name = f"{request.match_info['org']}/{request.match_info['name']}"
        repo = self.repos.get(name)
        if repo is None or (repo.is_private and not self._is_known(request)):
            raise _error(web.HTTPUnauthorized, "RepoNotFound", "Invalid username or password.")
        files = repo.at(request.match_info.get("revision", MAIN))
        if files is None:
            raise _error(web.HTTPNotFound, "RevisionNotFound", "Invalid rev id")
        return repo, files

    def _is_known(self, request: web.Request) -> bool:
        return request.headers.get("Authorization") == f"Bearer {self.token}"

    async def _info(self, request: web.Request) -> web.Response:
        repo, files = self._find(request)
        siblings = [
            {**_sibling(path, data), **repo.listed.get(path, {})} for path, data in files.items()
        ]
        return web.json_response(
            {
                "id": request.path.removeprefix("/api/models/"),
                "sha": commit_of(files),
                "gated": "manual" if repo.is_gated else False,
                "siblings": siblings,
            }
        )

    async def _tree(self, request: web.Request) -> web.Response:
        _, files = self._find(request)
        return web.json_response([_entry(path, data) for path, data in files.items()])

    async def _resolve(self, request: web.Request) -> web.StreamResponse:
        repo, files = self._find(request)
        if repo.is_gated and not self._is_known(request):
            raise _error(web.HTTPForbidden, "GatedRepo", "Access to this model is restricted.")
        path = request.match_info["path"]
        if path not in files:
            raise _error(web.HTTPNotFound, "EntryNotFound", "Entry not found")
        data = repo.sent.get(path, files[path])
        headers = {"ETag": f'"{git_oid(data)}"', "X-Repo-Commit": commit_of(files)}
        if not is_lfs(path):
            return web.Response(body=data, headers=headers)
        self._bodies[sha256(data)] = data
        headers |= {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
        elsewhere = f"{request.scheme}://localhost:{request.url.port}/cdn/{sha256(data)}?x=1"
        return web.Response(status=302, headers={**headers, "Location": elsewhere})

    _bodies: dict[str, bytes] = field(default_factory=dict)

    async def _cdn(self, request: web.Request) -> web.Response:
        self.cdn_headers.append(request.headers)
        data = self._bodies[request.match_info["sha256"]]
        return ranged(request, data)


def ranged(request: web.Request, data: bytes) -> web.Response:
    """The whole of `data`, or the range that is asked for."""
    asked = request.http_range
    if asked.start is None and asked.stop is None:
        return web.Response(body=data)
    start, stop = asked.start or 0, min(asked.stop or len(data), len(data))
    headers = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
    return web.Response(status=206, body=data[start:stop], headers=headers)


def is_lfs(path: str) -> bool:
    return path.endswith(LFS_SUFFIXES)


def _sibling(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_oid(data)}
    if is_lfs(path):
        entry["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 134}
    return entry


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
    lfs = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
    return {**entry, "lfs": lfs} if is_lfs(path) else entry


def _error(kind: type[web.HTTPError], code: str, text: str) -> web.HTTPError:
    return kind(headers={"X-Error-Code": code, "X-Error-Message": text})


@contextmanager
def serving(app: web.Application, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Run the application in a thread; its address."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(app)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> str:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        host, port = runner.addresses[0][:2]
        return f"{'https' if tls else 'http'}://{host}:{port}"

    try:
        yield asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def as_huggingface(hub: Hub, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """The hub is where Hugging Face's client looks, which has no cache and no token yet."""
    constants = "huggingface_hub.constants"
    with serving(hub.app()) as hub.url:
        monkeypatch.setattr(f"{constants}.ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(folder / "hf"))
        monkeypatch.setattr(f"{constants}.HF_TOKEN_PATH", str(folder / "none"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield
