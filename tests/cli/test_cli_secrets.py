"""No password or token ever reaches a file or the screen; one among the options is refused before anything is written."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image
from tiny_runs import DATA, ENCODER, MACHINE, TINY, in_process

CANARY = "cAnArY7f3d9b51"
VARIABLES = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "WANDB_API_KEY"),
    *("GITHUB_TOKEN", "AZURE_STORAGE_KEY", "KAGGLE_KEY", "NETRC_PASSWORD", "MY_SECRET"),
)


@pytest.fixture(autouse=True)
def secrets(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, CANARY)


def within(data: bytes, name: str = "") -> bytes:
    """All that a file says: its bytes, those of a zip's members, and those of a PNG's texts and pixels."""
    parts = [data]
    if data[:2] == b"PK":
        with zipfile.ZipFile(name) as opened:
            parts += [opened.read(member) for member in opened.namelist()]
    if data[:4] == b"\x89PNG":
        with Image.open(name) as picture:
            parts += [repr(picture.info).encode(), picture.tobytes()]
    if data[:2] == b"\x1f\x8b":
        parts.append(zlib.decompress(data, 31))
    return b"\0".join(parts)


def leaks(*folders: Path) -> list[str]:
    """Files below the folders that say the canary, in their names or in their content."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    assert files
    canary = CANARY.encode()
    return [str(file) for file in files if CANARY in file.name or canary in within(file.read_bytes(), str(file))]


def photos(folder: Path, count: int, broken: int) -> Path:
    for number in range(count):
        file = folder / ("cat" if number % 2 else "dog") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((32, 32), 40 + number).convert("RGB").save(file)
        if number >= count - broken:
            file.write_bytes(file.read_bytes()[:-40])
    return folder


def test_what_the_environment_holds_is_in_no_file_and_on_no_screen(tmp_path, monkeypatch, capfd):
    """Through every verb, with broken pictures, a loss that is not a number, and mistakes."""
    monkeypatch.setenv("MAE_VLM_CACHE", str(tmp_path / "cache"))
    pictures, root = photos(tmp_path / "photos", 48, broken=2), ["--trainer.default_root_dir", str(tmp_path / "runs")]
    sick = [{"class_path": "tests.faults.killer.PoisonOnly", "init_args": {"steps": [1]}}]
    model = [*ENCODER, "--model.objectives.pixels", "tests.faults.killer.PoisonPixels", "--model.objectives.pixels.width", "32"]
    own = ["--data.path", pictures, "--data.image_size", "32", "--data.batch_size", "16", "--pictures.count", "2"]
    length = ["--trainer.max_steps", "3", "--trainer.log_every_n_steps", "1", "--checkpoint.every_n_steps", "1"]
    assert in_process("fit", *MACHINE, *model, *own, *length, *root, "--trainer.callbacks", json.dumps(sick)) == 0
    run = tmp_path / "runs" / "default" / "version_0"
    for name in ("config.yaml", "metrics.csv", "bad_steps.jsonl", "quarantine.jsonl", "checkpoints/last.ckpt"):
        assert (run / name).is_file(), name
    resumed = ["--ckpt_path", run, *MACHINE, "--model.objectives.pixels", "tests.faults.killer.PoisonPixels"]
    assert in_process("validate", *resumed) == 0
    assert in_process("predict", *resumed, "--out", tmp_path / "features") == 0
    assert in_process("convert", run, "--to", "timm", "--out", tmp_path / "timm") == 0
    assert in_process("fit", *TINY, "--data.path", tmp_path / "nowhere", *root) == 1
    assert in_process("fit", *TINY, *root, "--trainer.callbacks", '[{"class_path": "tests.faults.killer.Nothing"}]') == 2
    with pytest.raises(RuntimeError, match="the reason"):
        fails = [{"class_path": "tests.faults.killer.Fail", "init_args": {"step": 1, "rank": 0}}]
        in_process("fit", *TINY, *root, "--trainer.callbacks", json.dumps(fails), "--trainer.max_steps", "3")
    output = capfd.readouterr()
    assert CANARY not in output.out + output.err
    assert leaks(tmp_path / "runs", tmp_path / "cache", tmp_path / "features", tmp_path / "timm") == []


def test_the_search_finds_it_where_it_is(tmp_path):
    import torch
    from PIL.PngImagePlugin import PngInfo

    note = PngInfo()
    note.add_text("key", CANARY, zip=True)
    Image.new("L", (2, 2)).save(tmp_path / "a.png", pnginfo=note)
    torch.save({"config": f"url: https://user:{CANARY}@host"}, tmp_path / "a.ckpt")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("inner", CANARY * 9)
    (tmp_path / "a.gz").write_bytes(zlib.compress(CANARY.encode(), wbits=31))
    (tmp_path / "b.txt").write_text("nothing")
    assert sorted(Path(name).name for name in leaks(tmp_path)) == ["a.ckpt", "a.gz", "a.png", "a.zip"]


WANDB = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"api_key": "0123456789"}}
GIVEN = {
    "a password in an address": ["--data.path", "https://user:S3cr3tW0rd@host/a.tar"],
    "with an equals sign": ["--data.path=https://user:S3cr3tW0rd@host/a.tar"],
    "keys of a bucket": ["--data.path", "s3://AKIAXX:S3cr3tW0rd@bucket/a"],
    "a key with slashes": ["--data.path", "s3://AKIAXX:a/b+c/S3cr3tW0rd@bucket/a"],
    "a token for a user": ["--data.val_path", "https://S3cr3tW0rd@host/a.tar"],
    "in a mixture": ["--data.mixture", "[{path: 'https://user:S3cr3tW0rd@host/a.tar', weight: 3}, {path: b}]"],
    "a signed address": ["--data.path", "https://host/a.tar?X-Amz-Signature=S3cr3tW0rd"],
    "a token in an address": ["--data.path", "https://host/a.tar?v=1&token=S3cr3tW0rd"],
    "a logger's key": ["--trainer.logger", json.dumps(WANDB).replace("0123456789", "S3cr3tW0rd")],
    "a dotted option": ["--trainer.logger.init_args.api_key", "S3cr3tW0rd"],
    "a token by name": ["--model.encoder.hf_token=S3cr3tW0rd"],
    "the variable's own value": ["--data.path", f"https://host/{CANARY}/a.tar"],
    "in the run's name": ["--name", f"mine-{CANARY}"],
    "where no option is": [f"https://user:{CANARY}@host"],
}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("where", ["command line", "config"])
def test_a_secret_among_the_options_is_refused_and_not_repeated(given, where, complaint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = GIVEN[given]
    if where == "config":
        if len(words) != 2:
            pytest.skip("one spelling is enough")
        config: dict = {}
        *outer, last = words[0].removeprefix("--").split(".")
        inner = config
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[last] = json.loads(words[1]) if words[1].startswith("{") else words[1]
        (tmp_path / "mine.yaml").write_text(json.dumps(config))
        words = ["--config", "mine.yaml"]
    line = complaint("fit", *words, code=2)
    assert "S3cr3tW0rd" not in line and CANARY not in line
    assert "config.yaml, every checkpoint" in line and "put it into the environment" in line
    assert {path.name for path in tmp_path.iterdir()} <= {"mine.yaml"}


@pytest.mark.parametrize("verb", ["validate", "predict", "doctor"])
def test_every_verb_refuses_them(verb, complaint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "https://***@" in complaint(verb, "--ckpt_path", "none", "--data.path", "https://user:S3cr3tW0rd@host/a.tar", code=2)


@pytest.mark.parametrize(
    "words",
    [
        ["--data.path", "hf://datasets/org/name@main"],
        ["--data.path", "https://host:8080/a@b/c.tar"],
        ["--data.path", "s3://bucket/a:b@c/d.tar"],
        ["--data.path", "photos/me@home: a?key=1"],
        ["--data.path", "https://host/a.tar?version=3"],
        ["--model.encoder.class_tokens", "2"],
        ["--model.text.mask_token", "[MASK]"],
        ["--trainer.logger.init_args.api_key", "null"],
    ],
    ids=str,
)
def test_what_only_looks_like_one_is_left_alone(words):
    from mae_vlm.cli.secrets import found

    assert found(words, [], {"HF_TOKEN": CANARY, "SHORT_TOKEN": "a"}) == ""


def test_a_secret_deep_in_a_config_is_named_by_its_place():
    from mae_vlm.cli.secrets import found

    config = {"trainer": {"logger": [{"init_args": {"wandb_api_key": "S3cr3tW0rd"}}]}, "data": {"image_size": 32}}
    assert found([], [config], {}).startswith("trainer.logger.init_args.wandb_api_key is a password or token by its name: ")
    assert DATA  # the options of tiny runs hold none
    assert found([*TINY, *DATA], [], {}) == ""
