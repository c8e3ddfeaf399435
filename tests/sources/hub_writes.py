"""Hugging Face's protocol on loopback, for uploads too: repositories, branches, LFS and commits."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.sources.hub_server import MAIN, Hub, Repo, commit_of, git_oid, is_lfs, sha256

PART_BYTES = 500_000


@dataclass
class WritableHub(Hub):
    """`token` may write to the namespaces of `owned`.

    `uploaded`: the digests that came in, in their order; `commits`: the files of each commit.
    """

    owned: frozenset[str] = frozenset({"org", "me"})
    uploaded: list[str] = field(default_factory=list)
    commits: list[list[str]] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    num_parts: int = 0

    def app(self) -> web.Application:
        app = super().app()
        model = "/api/models/{org}/{name}"
        app.add_routes(
            [
                web.post("/api/repos/create", self._create),
                web.post("/api/validate-yaml", self._validate),
                web.post(model + "/branch/{branch}", self._branch),
                web.post(model + "/preupload/{revision}", self._preupload),
                web.post(model + "/commit/{revision}", self._commit),
                web.post("/{org}/{name}.git/info/lfs/objects/batch", self._batch),
                web.put("/lfs/{oid}/{part}", self._put),
                web.post("/lfs/{oid}/done", self._done),
            ]
        )
        return app

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = f"{body['organization']}/{body['name']}"
        self._check(request, body["organization"])
        if name in self.repos:
            there = {"error": "You already created this model repo", "url": f"{self.url}/{name}"}
            return web.json_response(there, status=409)
        is_private = body.get("visibility") == "private"
        self.repos[name] = Repo({}, is_private=is_private)
        return web.json_response({"url": f"{self.url}/{name}"})

    async def _validate(self, request: web.Request) -> web.Response:
        content = (await request.json())["content"]
        return web.json_response({"errors": [], "warnings": []}, status=200 if content else 400)

    async def _branch(self, request: web.Request) -> web.Response:
        repo = self._writable(request)
        branch = request.match_info["branch"]
        if repo.at(branch) is not None:
            return web.json_response({"error": "Reference already exists"}, status=409)
        repo.revisions[branch] = repo.files
        return web.json_response({})

    async def _preupload(self, request: web.Request) -> web.Response:
        files = self._files(request)
        entries = []
        for file in (await request.json())["files"]:
            path = file["path"]
            entry: dict[str, Any] = {"path": path, "shouldIgnore": False}
            entry["uploadMode"] = "lfs" if is_lfs(path) else "regular"
            if path in files:
                data = files[path]
                entry["oid"] = sha256(data) if is_lfs(path) else git_oid(data)
            entries.append(entry)
        return web.json_response({"files": entries})

    async def _batch(self, request: web.Request) -> web.Response:
        self._writable(request)
        objects = [self._object(o) for o in (await request.json())["objects"]]
        return web.json_response({"transfer": "basic", "objects": objects})

    def _object(self, wanted: dict[str, Any]) -> dict[str, Any]:
        oid, size = wanted["oid"], wanted["size"]
        if oid in self.objects:
            return {"oid": oid, "size": size}
        if size <= PART_BYTES:
            upload: dict[str, Any] = {"href": f"{self.url}/lfs/{oid}/1"}
        else:
            count = -(-size // PART_BYTES)
            parts = {str(n): f"{self.url}/lfs/{oid}/{n}" for n in range(1, count + 1)}
            upload = {"href": f"{self.url}/lfs/{oid}/done",
                      "header": {"chunk_size": str(PART_BYTES), **parts}}  # fmt: skip
        return {"oid": oid, "size": size, "actions": {"upload": upload}}

    async def _put(self, request: web.Request) -> web.Response:
        assert "Authorization" not in request.headers  # storage has its own signature
        oid = request.match_info["oid"]
        self._parts.setdefault(oid, []).append(await request.read())
        self.num_parts += 1
        if request.match_info["part"] == "1" and len(self._parts[oid][0]) < PART_BYTES:
            self._keep(oid)
        return web.Response(headers={"ETag": f'"{self.num_parts}"'})

    async def _done(self, request: web.Request) -> web.Response:
        self._keep(request.match_info["oid"])
        return web.json_response({})

    _parts: dict[str, list[bytes]] = field(default_factory=dict)

    def _keep(self, oid: str) -> None:
        data = b"".join(self._parts.pop(oid))
        assert sha256(data) == oid
        self.objects[oid] = data
        self.uploaded.append(oid)

    async def _commit(self, request: web.Request) -> web.Response:
        repo, revision = self._writable(request), request.match_info["revision"]
        files = dict(self._files(request))
        changed = []
        for line in (await request.text()).splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            if entry["key"] != "header":
                changed.append(value["path"])
        if revision == MAIN:
            repo.files = files
        else:
            repo.revisions[revision] = files
        self.commits.append(sorted(changed))
        commit, name = commit_of(files), "{org}/{name}".format(**request.match_info)
        url = f"{self.url}/{name}/commit/{commit}"
        return web.json_response({"commitUrl": url, "commitOid": commit})

    def _files(self, request: web.Request) -> Any:
        files = self._writable(request).at(request.match_info["revision"])
        if files is None:
            raise web.HTTPNotFound(headers={"X-Error-Code": "RevisionNotFound"})
        return files

    def _writable(self, request: web.Request) -> Repo:
        name = f"{request.match_info['org']}/{request.match_info['name']}"
        if name not in self.repos:
            raise web.HTTPNotFound(headers={"X-Error-Code": "RepoNotFound"})
        self._check(request, request.match_info["org"])
        return self.repos[name]

    def _check(self, request: web.Request, namespace: str) -> None:
        if not self._is_known(request):
            raise web.HTTPUnauthorized(
                headers={"X-Error-Message": "Invalid credentials in Authorization header"}
            )
        if namespace not in self.owned:
            raise web.HTTPForbidden(
                headers={"X-Error-Message": f"You have no rights to create under {namespace}"}
            )
