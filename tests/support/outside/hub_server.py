"""A small Hugging Face hub on this machine: the few endpoints that uploading a model and loading it back need.

Who asks is told by the token: `ours` may do all, `reader` may write nothing, any other is unknown. Private repositories
show themselves to `ours` alone. What was asked is kept in `asked`, in order.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_BYTES = 2_000
"""Files from this size on travel by LFS, as on the hub those of 10 MB do."""


@dataclass
class Repository:
    """Its states, the newest last: commit -> files."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes]) -> str:
        sha = hashlib.sha1(str(len(self.commits)).encode() + b"".join(files.values())).hexdigest()
        self.commits[sha] = files
        return sha

    @property
    def newest(self) -> str:
        return next(reversed(self.commits))


class Hub:
    """What the server holds."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.failing: dict[str, int] = {}  # part of a path -> status that it is answered with
        self.url = ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *words: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(f"{self.command} {path}")
        for part, status in self.hub.failing.items():
            if part in path:
                return self._send(status, {"error": "as told"})
        for method, pattern, answer in ROUTES:
            if self.command in method and (found := re.fullmatch(pattern, path)):
                return getattr(self, answer)(body, **found.groupdict())
        self._send(404, {"error": f"no such page: {path}"}, "EntryNotFound")

    def _send(self, status: int, content: Any = None, code: str | None = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def user(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _visible(self, name: str, revision: str | None) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files; None once the refusal is sent."""
        found = self.hub.repositories.get(name)
        if found is None or (found.private and self.user != "ours"):
            self._send(401 if not self.user else 404, {"error": "Repository not found"}, "RepoNotFound")
            return None
        sha = found.newest if revision in (None, "main") else str(revision)
        if sha not in found.commits:
            self._send(404, {"error": "Invalid rev id"}, "RevisionNotFound")
            return None
        return sha, found.commits[sha]

    def who(self, body: bytes) -> None:
        known = self.user in ("ours", "reader")
        self._send(200 if known else 401, {"name": self.user, "type": "user"} if known else {"error": "Invalid"})

    def create(self, body: bytes) -> None:
        facts = json.loads(body)
        name = f"{facts.get('organization') or self.user}/{facts['name']}"
        if self.user != "ours" or not name.startswith("ours/"):
            return self._send(403, {"error": "You don't have the rights to create a model under this namespace"})
        status = 409 if name in self.hub.repositories else 200
        private = facts.get("private", facts.get("visibility") == "private")
        if status == 200:
            self.hub.repositories[name] = Repository(private)
            self.hub.repositories[name].commit({".gitattributes": b"*.safetensors filter=lfs"})
        return self._send(status, {"url": f"{self.hub.url}/{name}", "name": name, "private": private})

    def info(self, body: bytes, name: str, revision: str | None = None) -> None:
        if (commit := self._visible(name, revision)) is None:
            return
        siblings = [{"rfilename": file, "size": len(content)} for file, content in commit[1].items()]
        facts = {"id": name, "sha": commit[0], "private": self.hub.repositories[name].private, "siblings": siblings}
        self._send(200, {**facts, "tags": [], "downloads": 0, "likes": 0})

    def validate(self, body: bytes) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def preupload(self, body: bytes, name: str) -> None:
        files = json.loads(body)["files"]
        modes = [{"path": f["path"], "uploadMode": "lfs" if f["size"] >= LFS_BYTES else "regular"} for f in files]
        self._send(200, {"files": [{**mode, "shouldIgnore": False} for mode in modes]})

    def batch(self, body: bytes, name: str) -> None:
        objects = json.loads(body)["objects"]
        upload = {each["oid"]: {"upload": {"href": f"{self.hub.url}/blobs/{each['oid']}"}} for each in objects}
        self._send(200, {"transfer": "basic", "objects": [{**o, "actions": upload[o["oid"]]} for o in objects]})

    def blob(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.blobs[oid] = body
        self._send(200, b"")

    def commit(self, body: bytes, name: str) -> None:
        found = self.hub.repositories[name]
        files = dict(found.commits[found.newest])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        sha = found.commit(files)
        self._send(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{sha}", "commitOid": sha, "success": True})

    def resolve(self, body: bytes, name: str, revision: str, file: str) -> None:
        if (commit := self._visible(name, revision)) is None:
            return
        if file not in commit[1]:
            return self._send(404, {"error": "Entry not found"}, "EntryNotFound")
        content = commit[1][file]
        facts = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X_Repo_Commit": commit[0]}
        self._send(200, content, **facts)


REPOSITORY = r"(?P<name>[\w.-]+/[\w.-]+)"
ROUTES = (
    ("GET", "/api/whoami-v2", "who"),
    ("POST", "/api/repos/create", "create"),
    ("POST", "/api/validate-yaml", "validate"),
    ("GET", rf"/api/models/{REPOSITORY}(/revision/(?P<revision>.+))?", "info"),
    ("POST", rf"/api/models/{REPOSITORY}/preupload/main", "preupload"),
    ("POST", rf"/api/models/{REPOSITORY}/commit/main", "commit"),
    ("POST", rf"/{REPOSITORY}\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/blobs/(?P<oid>\w+)", "blob"),
    ("HEAD GET", rf"/{REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", "resolve"),
)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub with nothing on it, for as long as the block lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
