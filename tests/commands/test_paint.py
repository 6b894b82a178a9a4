"""Painting from words through the real command line."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from tiny_runs import MACHINE, REPOSITORY, TINY, curve, in_new_process, in_process
from torchvision.transforms.functional import pil_to_tensor

from mae_vlm.convert import painter

CONFIG = REPOSITORY / "configs" / "pretrain" / "scenes_completion.yaml"
SIZES = [
    "--model.encoder.width",
    "32",
    "--model.encoder.depth",
    "1",
    "--model.encoder.heads",
    "2",
    "--model.text.width",
    "32",
    "--model.text.heads",
    "2",
]
DATA = ["--data.scenes", "32", "--data.val_scenes", "4", "--data.batch_size", "8", "--pictures.count", "2", "--pictures.encoder", "false"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("painter")
    more = ["--probes.pictures", "0", "--trainer.max_steps", "2", "--trainer.default_root_dir", root, "--name", "painter"]
    assert in_process("fit", "--config", CONFIG, *MACHINE, *SIZES, *DATA, *more) == 0
    return root / "painter" / "version_0"


@pytest.fixture
def paint(run):
    return lambda *words: in_process("paint", run, "--device", "cpu", *words)


@pytest.fixture
def complaint(capsys, paint):
    def told(*words, code=1) -> str:
        capsys.readouterr()
        try:
            result = paint(*words)
        except SystemExit as end:
            result = end.code
        lines = capsys.readouterr().err.strip().splitlines()
        assert result == code and len(lines) == 1, lines
        return lines[0].removeprefix("mae_vlm: error: ")

    return told


def pixels(file) -> torch.Tensor:
    return pil_to_tensor(Image.open(file).convert("RGB"))


def test_a_run_draws_what_it_paints_and_tells_its_terms(run):
    assert [file.name for file in sorted((run / "pictures").iterdir())][-1] == "completion_00000002.png"
    for tag in ("val/completion/cross_entropy", "val/completion/accuracy", "val/completion/other_words"):
        assert curve(run, tag), tag
    assert curve(run, "train/completion/cross_entropy")


def test_the_same_seed_paints_the_same_picture_and_another_another(paint, tmp_path):
    files = [tmp_path / name for name in ("one.png", "same.png", "other.png")]
    for file, seed in zip(files, (3, 3, 4), strict=True):
        assert paint("--words", "a red square", "--out", file, "--seed", seed, "--steps", 2) == 0
    one, same, other = map(pixels, files)
    assert one.shape == (3, 224, 224)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_several_pictures_stand_side_by_side_pixel_for_pixel(paint, tmp_path, capsys):
    file = tmp_path / "three.png"
    assert paint("--words", "a blue ring", "--out", file, "--count", "3", "--scale", "1", "--steps", "2") == 0
    assert pixels(file).shape == (3, 32, 96)
    assert capsys.readouterr().out.splitlines()[-1] == f"{file}: 3 of 32 x 32 pixels, 'a blue ring', seed 0"


def test_only_the_patches_that_the_region_touches_are_painted(paint, tmp_path):
    picture = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / "given.png")
    options = ["--picture", tmp_path / "given.png", "--words", "a red square", "--scale", "1", "--steps", "2"]
    for region, rows, columns in (("16,8,32,24", slice(4, 16), slice(8, 24)), ("17,9,1,1", slice(4, 8), slice(8, 12))):
        file = tmp_path / f"{region}.png"
        assert paint(*options, "--region", region, "--out", file) == 0
        again = tmp_path / f"{region} again.png"
        assert paint(*options, "--region", region, "--out", again, "--seed", "9") == 0
        changed = (pixels(file).int() - pixels(again).int()).abs().sum(0) > 0
        inside = torch.zeros(32, 32, dtype=torch.bool)
        inside[rows, columns] = True
        assert changed[inside].float().mean() > 0.3 and not changed[~inside].any()


def test_nothing_is_overwritten_unless_forced(complaint, paint, tmp_path):
    file = tmp_path / "there.png"
    file.write_bytes(b"mine")
    assert complaint("--words", "a", "--out", file) == f"{file} exists already; choose another --out, or add --force"
    assert file.read_bytes() == b"mine"
    assert paint("--words", "a ring", "--out", file, "--force", "--steps", "1") == 0 and pixels(file).shape[0] == 3


def test_mistakes_are_told_in_one_line(complaint, tmp_path):
    out = ["--words", "a red square", "--out", tmp_path / "x.png"]
    Image.new("RGB", (64, 32)).save(tmp_path / "wide.png")
    given = ["--picture", tmp_path / "wide.png"]
    assert complaint("--words", " ", "--out", tmp_path / "x.png").startswith("--words is empty")
    assert "only PNG is written; name it x.png" in complaint("--words", "a", "--out", tmp_path / "x.jpg")
    assert "--picture and --region belong together" in complaint(*out, "--region", "0,0,4,4")
    assert "--region 1,2,3 given, allowed are four numbers" in complaint(*out, *given, "--region", "1,2,3")
    assert "--region 1,2,0,4 is empty" in complaint(*out, *given, "--region", "1,2,0,4")
    assert "lies outside of" in (told := complaint(*out, *given, "--region", "0,0,8,8")) and "32 x 32 pixels of it from 16,0" in told
    assert "--count 0" in complaint(*out, "--count", "0") and "--steps 0" in complaint(*out, "--steps", "0")
    assert "nothing.png" in complaint(*out, "--picture", tmp_path / "nothing.png", "--region", "0,0,4,4")
    assert "no such device" in complaint(*out, "--device", "abacus")
    assert "the following arguments are required: --words" in complaint("--out", "x.png", code=2)
    assert not (tmp_path / "x.png").exists()


def test_a_run_that_was_not_trained_to_paint_is_refused(tmp_path):
    more = ["--probes.pictures", "0", "--pictures.encoder", "false", "--trainer.max_steps", "1", "--trainer.default_root_dir", tmp_path]
    assert in_process("fit", *TINY, *more) == 0
    with pytest.raises(ValueError, match="was not trained to paint; train a run with mae_vlm"):
        painter.read(tmp_path / "default" / "version_0")


def test_help_imports_nothing_heavy(tmp_path):
    program = "import sys; from mae_vlm.cli import main\ntry: main(['paint', '--help'])\nfinally: assert 'torch' not in sys.modules"
    answer = in_new_process(cwd=tmp_path, launcher=("-c", program))
    assert answer.returncode == 0 and "--region X,Y,W,H" in answer.stdout, answer.stderr
