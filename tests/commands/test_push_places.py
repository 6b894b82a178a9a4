"""push to a folder and to S3, by the real s3fs against moto's server: the same files, the same care."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from s3_server import s3_server
from tiny_runs import TINY, in_process

from mae_vlm.convert import native
from mae_vlm.convert.parcel import Wishes, pack
from mae_vlm.hub import attempts
from mae_vlm.hub.delivery import deliver
from mae_vlm.hub.place import Place

LICENSE = ["--license", "mit"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    root = tmp_path_factory.mktemp("pretrained")
    words = [*TINY, "--probes.pictures", "0", "--trainer.max_steps", "1", "--trainer.default_root_dir", root]
    assert in_process("fit", *words) == 0
    return root / "default" / "version_0"


@pytest.fixture(scope="module")
def packed(pretrained, tmp_path_factory):
    return pack(pretrained, tmp_path_factory.mktemp("packed") / "parcel", Wishes("mit"))


@pytest.fixture(scope="module")
def s3():
    """An S3 on this machine with the bucket ``models``, and fsspec's file system for it."""
    with s3_server("models", secret="testing-cAnArY7f3d9b51") as fs:
        yield fs


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path):
    """(address, read all files there, write one there) of an empty place."""
    if request.param == "folder":
        root = tmp_path / "out" / "run"

        def read():
            return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}

        def put(name, content):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)

        return str(root), read, put
    fs, root = request.getfixturevalue("s3"), f"models/{tmp_path.name}"

    def read_s3():
        fs.invalidate_cache()
        return {name.removeprefix(f"{root}/"): fs.cat_file(name) for name in fs.find(root)}

    return f"s3://{root}", read_s3, lambda name, content: fs.pipe_file(f"{root}/{name}", content)


@pytest.fixture
def refused(capsys, monkeypatch):
    monkeypatch.setattr(attempts, "PAUSES", (0.0,))

    def run(*words):
        capsys.readouterr()
        assert in_process("push", *words) == 1
        told = capsys.readouterr()
        lines = [line for line in told.err.splitlines() if not line.startswith("mae_vlm: warning: ")]
        assert len(lines) == 1 and "cAnArY" not in told.err, told.err
        print(lines[0])
        return lines[0].removeprefix("mae_vlm: error: ")

    return run


def test_what_is_there_is_what_was_packed_and_timm_opens_it(place, pretrained, tmp_path, capsys):
    address, read, _ = place
    assert in_process("push", pretrained, "--to", address, *LICENSE) == 0
    assert f"uploaded step 1 to {address}" in capsys.readouterr().out
    there = read()
    record = json.loads(there["mae_vlm.json"])
    assert set(record["files"]) == set(there) - {"mae_vlm.json"} and {"README.md", "config.yaml", "model.safetensors"} < set(there)
    (tmp_path / "copy").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "copy" / name).write_bytes(there[name])
    model = timm.create_model(f"local-dir:{tmp_path / 'copy'}", pretrained=True).eval()
    images_BCHW = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.forward_features(images_BCHW), native.read_encoder(pretrained).full(images_BCHW).tokens_BTD)


def test_a_second_push_updates_the_first_and_takes_away_what_it_no_longer_has(place, packed):
    address, read, put = place
    deliver(Place(address), packed.files, 1, False, print)
    put("notes.md", b"mine")
    fewer = {name: file for name, file in packed.files.items() if not name.startswith("pictures/")}
    deliver(Place(address), fewer, 1, False, print)
    assert set(read()) == {*fewer, "notes.md"}


def test_files_of_others_stop_it_unless_forced(place, pretrained, packed, refused):
    address, read, put = place
    put("README.md", b"mine")
    put("x/y.txt", b"mine")
    assert f"{address} holds 2 files that no push of this tool has put there" in refused(pretrained, "--to", address, *LICENSE)
    assert read() == {"README.md": b"mine", "x/y.txt": b"mine"}
    deliver(Place(address), packed.files, 1, True, print)
    assert read()["x/y.txt"] == b"mine" and set(read()) == {*packed.files, "x/y.txt"}


def test_half_an_upload_is_known_as_ours_and_made_whole(place, packed, monkeypatch):
    address, read, _ = place
    write, count = Place._write, []

    def break_off(self, file, name):
        count.append(name)
        if len(count) == 4:
            raise ConnectionResetError("gone")
        write(self, file, name)

    monkeypatch.setattr(Place, "_write", break_off)
    monkeypatch.setattr(attempts, "PAUSES", ())
    with pytest.raises(ValueError, match="failed: the target cannot be reached, or the connection broke"):
        deliver(Place(address), packed.files, 1, False, print)
    assert len(read()) == 3
    monkeypatch.setattr(attempts, "PAUSES", (0.0,))
    deliver(Place(address), packed.files, 1, False, print)
    assert set(read()) == set(packed.files)


@pytest.mark.parametrize("address", ["hf://org/name", "https://host/x", "nonsense://x/y"])
def test_an_address_that_cannot_be_written_to_is_refused(pretrained, refused, address):
    assert refused(pretrained, "--to", address, *LICENSE).startswith(f"--to {address} is ")


def test_a_bucket_that_is_not_there_is_told(s3, pretrained, refused):
    said = refused(pretrained, "--to", "s3://no-such-bucket-here/x", *LICENSE)
    assert said.startswith("upload to s3://no-such-bucket-here/x failed: ") and "bucket does not exist" in said


def test_a_file_or_a_folder_without_permission_is_told(pretrained, refused, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    assert "is a file; give a folder" in refused(pretrained, "--to", tmp_path / "file", *LICENSE)
    monkeypatch.setattr(Place, "_write", lambda *arguments: (_ for _ in ()).throw(PermissionError(13, "Permission denied", "there")))
    assert "failed: no permission to write there" in refused(pretrained, "--to", tmp_path / "new", *LICENSE)
