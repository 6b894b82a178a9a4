"""An upload to the hub and every fault on its way: what passes is waited out, what stays is one line, and nothing is half there."""

from __future__ import annotations

import pytest
from hub_server import running
from hub_state import TOKEN, point_at

from mae_vlm.hub import attempts
from mae_vlm.hub.delivery import deliver
from mae_vlm.hub.record import RECORD, written
from mae_vlm.hub.repository import Repository

CARD = b"---\nlicense: mit\n---\n\n# A model\n"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "PAUSES", (0.0, 0.0))
    with running() as hub:
        point_at(monkeypatch, hub, tmp_path / "hub_home")
        yield hub


@pytest.fixture
def packed(tmp_path):
    """Files as a push has them, small ones and large ones."""
    contents = {"README.md": CARD, "config.json": b"{}", "model.safetensors": bytes(200_000), "curves.png": bytes(range(256)) * 100}
    files = {name: tmp_path / name for name in contents}
    for name, file in files.items():
        file.write_bytes(contents[name])
    (tmp_path / RECORD).write_bytes(written(files, 3, "0"))
    return files | {RECORD: tmp_path / RECORD}


def upload(packed, said):
    return deliver(Repository("org/name"), packed, 3, False, said.append)


REQUESTS = ["GET /api/models", "POST /api/repos/create", "POST .*/preupload", "POST .*/objects/batch", "PUT /large", "POST .*/commit/"]


@pytest.mark.parametrize("where", REQUESTS)
@pytest.mark.parametrize("fault", [429, 500, "half", "mute", "lost"], ids=str)
def test_a_fault_that_passes_is_waited_out(hub, packed, where, fault):
    hub.fail(where, fault, times=1 if fault == "lost" else 2)
    said = []
    assert upload(packed, said).startswith(hub.url) and len(said) <= 2
    assert all(one.times == 0 for one in hub.faults), "the fault was met"
    repo = hub.repos["org/name"]
    assert set(repo.files) == {*packed, ".gitattributes"} and len(repo.commits) == 2, "once, however often it was tried"


@pytest.mark.parametrize("where", ["GET /api/models", "PUT /large", "POST .*/commit/"])
@pytest.mark.parametrize(
    "fault, why",
    [
        (401, "the token is missing or not valid (401)"),
        (413, "it is too large for the target (413)"),
        (429, "the target asks for fewer requests (429)"),
        (500, "the target is out of order (500)"),
        ("half", "the target cannot be reached, or the connection broke"),
    ],
    ids=str,
)
def test_a_fault_that_stays_is_one_line_and_leaves_nothing_half_written(hub, packed, where, fault, why):
    before = hub.make("org/name").files
    hub.fail(where, fault, times=9999)
    said = []
    with pytest.raises(ValueError) as told:
        upload(packed, said)
    line = str(told.value)
    assert line.startswith("upload to org/name failed") and why in line and "\n" not in line and TOKEN not in line
    assert len(said) == (0 if fault in (401, 413) else 2), "what cannot pass is not tried again"
    assert hub.repos["org/name"].files == before


def test_a_network_that_is_gone_is_told_after_all_attempts(hub, packed, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="failed after 3 attempts: the target cannot be reached, or the connection broke"):
        upload(packed, [])


def test_an_error_that_quotes_the_token_is_told_without_it(hub, packed, monkeypatch):
    def quote(self):
        raise RuntimeError(f"Authorization: Bearer {TOKEN} at https://me:word@host/?sig=abc")

    monkeypatch.setattr(Repository, "held", quote)
    with pytest.raises(ValueError, match=r"Bearer \*\*\* at https://\*\*\*@host/\?sig=\*\*\*$") as told:
        upload(packed, [])
    assert told.value.__cause__ is None and told.value.__suppress_context__


def test_somebody_who_commits_in_between_is_seen_and_the_push_begins_anew(hub, packed):
    repo = hub.make("org/name")
    hub.meanwhile("POST .*/preupload", lambda: repo.commit({**repo.files, "other.txt": b"theirs"}, "theirs"))
    with pytest.raises(ValueError, match=r"org/name holds 1 file that no push .* such as other.txt"):
        upload(packed, [])
    assert set(repo.files) == {".gitattributes", "other.txt"}
