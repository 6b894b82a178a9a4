"""A stand-in for the Hugging Face hub on loopback: accounts, repositories, commits, large files, downloads, and faults to order.

It speaks what huggingface_hub 2.4 asks when it makes a repository, commits to it (preupload, LFS batch and PUT, NDJSON) and reads from it.
It does not speak xet, the storage protocol of hf_xet: its clients are told HF_HUB_DISABLE_XET.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml
from hub_state import READER, TOKEN, Hub, Repo

LARGE = (".safetensors", ".png", ".ckpt")  # what the hub's .gitattributes sends to LFS


@contextmanager
def running() -> Iterator[Hub]:
    """A hub at ``hub.url`` while the block lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Silent."""

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        fault = self.hub.fault(f"{self.command} {path}")
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "half":  # the connection breaks in the middle of what comes up
            self.rfile.read(length // 2)
            self.connection.close()
            self.close_connection = True
            return
        self.body = self._chunked() if "chunked" in self.headers.get("Transfer-Encoding", "") else self.rfile.read(length)
        if fault == "mute":
            self.connection.close()
            self.close_connection = True
            return
        if fault == "slow":
            time.sleep(30)
        if isinstance(fault, int):
            self._answer(fault, {"error": f"fault {fault}"}, {"Retry-After": "0"} if fault == 429 else {})
            return
        with self.hub.lock:
            self.silent = fault == "lost"  # done, but nobody hears of it
            self._route(path)

    def _chunked(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _route(self, path: str) -> None:
        routes = [
            (r"GET /api/whoami-v2", self._whoami),
            (r"POST /api/validate-yaml", self._validate),
            (r"POST /api/repos/create", self._create),
            (r"GET /api/models/([^/]+/[^/]+?)(?:/revision/(.+))?", self._info),
            (r"POST /api/models/([^/]+/[^/]+)/preupload/(.+)", self._preupload),
            (r"POST /api/models/([^/]+/[^/]+)/commit/(.+)", self._commit),
            (r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
            (r"PUT /large/(\w+)", self._store),
            (r"(?:HEAD|GET) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
        ]
        for pattern, serve in routes:
            if match := re.fullmatch(pattern, f"{self.command} {path}"):
                serve(*match.groups())
                return
        self._answer(404, {"error": "Not Found"})

    # -- who may

    def _allowed(self, name: str, writes: bool) -> Repo | None:
        """The repository, or None after an answer that says why not."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        repo = self.hub.repos.get(name)
        if token and token not in (TOKEN, READER):
            self._answer(401, {"error": "Invalid credentials"}, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repo is None or (repo.private and not token) or (repo.private and not name.startswith("org/")):
            self._answer(404 if token else 401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif writes and (token != TOKEN or not name.startswith("org/")):
            self._answer(403, {"error": "Forbidden"}, {"X-Error-Message": "you must use a write token"})
        else:
            return repo
        return None

    def _whoami(self) -> None:
        self._answer(200, {"type": "user", "name": "org", "orgs": []})

    def _validate(self) -> None:
        """The metadata of a card: what the hub's own check looks at."""
        text = json.loads(self.body)["content"]
        found = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
        told = yaml.safe_load(found[1]) if found else None
        errors = [] if isinstance(told, dict) else ["no metadata"]
        if not errors and not isinstance(told.get("license"), str):
            errors.append('"license" must be a string')
        for result in (told or {}).get("model-index", [{"results": []}])[0]["results"]:
            if not result["task"]["type"] or not result["dataset"]["name"] or not result["dataset"]["type"]:
                errors.append('"model-index[0].results" lacks a name')
        self._answer(400 if errors else 200, {"errors": [{"message": one} for one in errors], "warnings": []})

    def _create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if self.headers.get("Authorization") != f"Bearer {TOKEN}" or asked["organization"] != "org":
            self._answer(403, {"error": "Forbidden"}, {"X-Error-Message": "You may not create a model there"})
        elif name in self.hub.repos:
            self._answer(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        else:
            self.hub.make(name, private=asked.get("visibility") == "private")
            self._answer(200, {"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    # -- what comes up

    def _info(self, name: str, revision: str | None) -> None:
        if (repo := self._allowed(name, writes=False)) is not None:
            siblings = [{"rfilename": file} for file in sorted(repo.files)]
            self._answer(200, {"id": name, "modelId": name, "sha": repo.head, "private": repo.private, "siblings": siblings, "tags": []})

    def _preupload(self, name: str, revision: str) -> None:
        if (repo := self._allowed(name, writes=True)) is None:
            return
        told = []
        for file in json.loads(self.body)["files"]:
            mode = "lfs" if file["path"].endswith(LARGE) else "regular"
            there = repo.files.get(file["path"])
            known = None if there is None else hashlib.sha256(there).hexdigest() if mode == "lfs" else _git(there)
            told.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": known})
        self._answer(200, {"files": told})

    def _batch(self, name: str) -> None:
        if self._allowed(name, writes=True) is None:
            return
        objects = []
        for one in json.loads(self.body)["objects"]:
            wanted = {"upload": {"href": f"{self.hub.url}/large/{one['oid']}"}}
            objects.append({**one, **({} if one["oid"] in self.hub.large else {"actions": wanted})})
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _store(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self._answer(422, {"error": "checksum"})
        else:
            self.hub.large[oid] = self.body
            self._answer(200, {})

    def _commit(self, name: str, revision: str) -> None:
        if (repo := self._allowed(name, writes=True)) is None:
            return
        lines = [json.loads(line) for line in self.body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit") not in (None, repo.head):
            self._answer(412, {"error": "A commit has happened since. Please refresh and try again."})
            return
        files = dict(repo.files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile" and value["oid"] in self.hub.large:
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile" and value["path"] in files:
                del files[value["path"]]
            else:
                self._answer(400, {"error": f"cannot do {line['key']} of {value['path']}"})
                return
        oid = repo.commit(files, header["summary"])
        self._answer(200, {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "hookOutput": ""})

    # -- what goes down

    def _resolve(self, name: str, revision: str, file: str) -> None:
        if (repo := self._allowed(name, writes=False)) is None:
            return
        files = repo.files if revision in ("main", repo.head) else dict(repo.commits).get(revision)
        if files is None:
            self._answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        elif file not in files:
            self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repo.head})
        else:
            content = files[file]
            self._send(200, content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": repo.head})

    def _answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        if getattr(self, "silent", False):
            self.connection.close()
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _git(content: bytes) -> str:
    """The name git gives a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
