"""What a trained run is good for: validated, looked at, taken along."""

from __future__ import annotations

import shutil

import pyarrow.parquet
import pytest
import timm
import torch
from tiny_runs import MACHINE, in_process, rows

import mae_vlm


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the trained run that a test may write into."""
    return shutil.copytree(trained.folder, tmp_path / "default" / "version_0")


@pytest.mark.parametrize("named", ["folder", "file"])
def test_validate_repeats_the_last_validation_of_the_run(named, run, capsys):
    """To the last digit: same masks, same crops, same weights."""
    final = [row for row in rows(run) if row["val/loss"]][-1]
    assert in_process("validate", "--ckpt_path", run if named == "folder" else run / "checkpoints" / "last.ckpt", *MACHINE) == 0
    told = capsys.readouterr().out
    for tag in ("val/loss", "val/pixels/predict_zero", "val/pixels/other_picture"):
        line = next(line for line in told.splitlines() if tag in line)
        assert final[tag] in line


def test_test_without_a_test_part_takes_the_validation_pictures(run, capsys):
    assert in_process("test", "--ckpt_path", run, *MACHINE) == 0
    final = [row for row in rows(run) if row["val/loss"]][-1]
    told = capsys.readouterr().out
    line = next(line for line in told.splitlines() if "test/loss" in line)
    assert final["val/loss"] in line and "no test part: the figures of test are those of the validation pictures" in told


def test_predict_writes_a_feature_for_every_picture(run, tmp_path):
    assert in_process("predict", "--ckpt_path", run, "--out", tmp_path / "features", *MACHINE) == 0
    table = pyarrow.parquet.read_table(tmp_path / "features")
    assert table.column_names == ["id", "features"]
    assert len(table) == 64 and len(set(table["id"].to_pylist())) == 64
    assert table["features"].type.list_size == 32 and table["features"].type.value_type == "float"


def test_predict_goes_over_another_folder_and_agrees_with_load(run, tmp_path):
    from PIL import Image

    photos = tmp_path / "photos"
    photos.mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(5):
        pixels = torch.randint(0, 256, (40, 48, 3), generator=generator, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(photos / f"{number}.png")
    assert in_process("predict", "--ckpt_path", run, "--data.path", photos, *MACHINE) == 0
    table = pyarrow.parquet.read_table(run / "predictions").sort_by("id")
    assert len(table) == 5
    features = torch.tensor(table["features"].to_pylist())
    encoded = mae_vlm.load(run).encode([photos / f"{number}.png" for number in range(5)])
    torch.testing.assert_close(features, encoded, rtol=1e-4, atol=1e-5)


def test_convert_opens_in_timm_with_the_same_features(run, tmp_path):
    assert in_process("convert", run, "--to", "timm", "--out", tmp_path / "encoder") == 0
    model = timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True).eval()
    pictures = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        theirs = model((pictures / 255 - mean) / std)
    torch.testing.assert_close(theirs, mae_vlm.load(run).encode(pictures), rtol=1e-5, atol=1e-6)


def test_convert_overwrites_nothing(run, tmp_path, complaint):
    assert in_process("convert", run, "--to", "timm", "--out", tmp_path / "encoder") == 0
    assert "exists already" in complaint("convert", run, "--to", "timm", "--out", tmp_path / "encoder", code=1)
