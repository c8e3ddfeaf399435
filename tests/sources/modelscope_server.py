"""ModelScope's protocol on loopback, as far as a download needs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.sources.hub_server import Repo, ranged, sha256

MASTER = "master"


@dataclass
class ModelScope:
    """`repos`: `org/name` -> what is there. `token` opens private ones."""

    repos: dict[str, Repo] = field(default_factory=dict)
    token: str = "ms_right"
    url: str = ""
    fetched: list[str] = field(default_factory=list)

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/openapi/v1/models/{org}/{name}", self._info),
                web.get("/api/v1/models/{org}/{name}", self._info),
                web.get("/api/v1/models/{org}/{name}/repo/files", self._list),
                web.get("/api/v1/models/{org}/{name}/repo", self._file),
            ]
        )
        return app

    def _find(self, request: web.Request) -> Repo:
        name = f"{request.match_info['org']}/{request.match_info['name']}"
        repo = self.repos.get(name)
        if repo is None or (repo.is_private and not self._is_known(request)):
            raise _error(web.HTTPNotFound, 10010205001, "Model does not exist")
        if repo.is_gated and not self._is_known(request):
            raise _error(web.HTTPForbidden, 10010205002, "Permission denied")
        return repo

    def _is_known(self, request: web.Request) -> bool:
        cookie = request.cookies.get("m_session_id")
        header = request.headers.get("Authorization")
        return cookie == self.token and header == f"Bearer {self.token}"

    async def _info(self, request: web.Request) -> web.Response:
        self._find(request)
        name = request.match_info["name"]
        return web.json_response({"Code": 200, "Data": {"Name": name}, "data": {"id": name}})

    async def _list(self, request: web.Request) -> web.Response:
        repo = self._find(request)
        files = repo.at(_main(request.query["Revision"]))
        if files is None:
            raise _error(web.HTTPNotFound, 10010205003, "Revision does not exist")
        entries: list[dict[str, Any]] = [{"Path": "onnx", "Type": "tree", "Size": 0, "Sha256": ""}]
        for path, data in files.items():
            entry = {"Path": path, "Type": "blob", "Size": len(data), "Sha256": sha256(data)}
            entries.append({**entry, **repo.listed.get(path, {})})
        return web.json_response({"Code": 200, "Data": {"Files": entries}, "Success": True})

    async def _file(self, request: web.Request) -> web.Response:
        repo = self._find(request)
        files = repo.at(_main(request.query["Revision"])) or {}
        path = request.query["FilePath"]
        self.fetched.append(path)
        return ranged(request, repo.sent.get(path, files[path]))


def _main(revision: str) -> str:
    return "main" if revision == MASTER else revision


def _error(kind: type[web.HTTPError], code: int, text: str) -> web.HTTPError:
    body = f'{{"Code": {code}, "Message": "{text}", "Success": false}}'
    return kind(text=body, content_type="application/json")
