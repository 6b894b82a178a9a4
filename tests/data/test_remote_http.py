"""Shards by http and by hf:// from a server on this machine that stands in for the web and the hub."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from pictures_on_disk import picture, write_tar

from mae_vlm.data import remote
from mae_vlm.data.collection import open_collection
from mae_vlm.data.sources.base import Place

REPO = "/api/datasets/org/name"


class Hub(BaseHTTPRequestHandler):
    """The hub's answers about the data set org/name, whose files are ``server.files``; they also lie under /plain/."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = urlsplit(self.path).path
        if path == REPO:
            self.answer(json.dumps({"id": "org/name", "_id": "1", "sha": "main", "private": False, "siblings": []}).encode())
        elif path.startswith(f"{REPO}/tree/main"):
            inner = path.removeprefix(f"{REPO}/tree/main").strip("/")
            files = self.server.files.items()
            found = [{"type": "file", "path": f, "size": len(data), "oid": "o"} for f, data in files if f.startswith(inner)]
            self.answer(json.dumps(found).encode())
        else:
            self.file(path.removeprefix("/datasets/org/name/resolve/main/").removeprefix("/plain/"))

    do_HEAD = do_GET

    def file(self, name):
        data = self.server.files.get(name)
        if data is None:
            self.answer(b"{}", 404)
        elif self.headers.get("Range") and self.server.ranges:
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            last = min(last, len(data) - 1)
            self.answer(data[first : last + 1], 206, ("Content-Range", f"bytes {first}-{last}/{len(data)}"))
        else:
            self.answer(data)

    def answer(self, data, code=200, *more):
        self.send_response(code)
        for key, value in (("Content-Length", str(len(data))), ("ETag", '"e"'), ("X-Repo-Commit", "main"), *more):
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *words):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import fsspec

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.ranges, server.url = {}, True, f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": server.url, "token": False})
    monkeypatch.setenv("MAE_VLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_PAUSES", (0.0,))
    for number, name in enumerate(("train-0.tar", "train-1.tar", "val-0.tar")):
        server.files[f"shards/{name}"] = write_tar(tmp_path / name, {"x.png": picture(number)}).read_bytes()
    yield server
    server.shutdown()
    server.server_close()


def test_shards_in_a_repository_of_the_hub_are_read_by_their_path(hub):
    found = open_collection(Place("hf://datasets/org/name/shards"))
    assert found.format == "tar" and {name: len(part) for name, part in found.parts.items()} == {"train": 2, "val": 1}
    assert found.parts["train"][1].image == picture(1)
    assert open_collection(Place("hf://datasets/org/name/shards/val-0.tar")).parts["all"][0].image == picture(2)


def test_a_shard_is_read_over_http(hub):
    source = open_collection(Place(f"{hub.url}/plain/shards/train-1.tar")).parts["all"]
    assert (source[0].id, source[0].image) == ("train-1.tar/x.png", picture(1))


def test_a_server_without_ranges_is_refused(hub):
    hub.ranges = False
    hub.files["large.tar"] = hub.files["shards/train-0.tar"] + bytes(9 << 20)
    with pytest.raises(ValueError, match=r"large\.tar: .* bytes came instead of .*, or its server gives no ranges"):
        open_collection(Place(f"{hub.url}/plain/large.tar"))


@pytest.mark.parametrize("url", ["hf://datasets/org/other/x.tar", "hf://datasets/org/name/none.tar", "{}/plain/none.tar"])
def test_what_is_not_there_is_refused_in_one_line(hub, url):
    with pytest.raises(ValueError, match=r"^data\.path .*none\.tar|other/x\.tar (does not exist|cannot be read)") as caught:
        open_collection(Place(url.format(hub.url)))
    assert "\n" not in str(caught.value)
