"""Neighbours of the held-out pictures, as a sheet and in TensorBoard's projector."""

import torch
from tiny_runs import TINY, in_process

from mae_vlm.callbacks.gallery import nearest, neighbours_sheet


def test_the_nearest_others_are_those_of_the_same_direction_and_never_the_query_itself():
    directions = torch.eye(4).repeat(5, 1)
    features = directions + 0.01 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    places = nearest(features, 8, 4)
    assert (places % 4 == torch.arange(8)[:, None] % 4).all() and (places != torch.arange(8)[:, None]).all()


def test_frames_tell_whether_the_class_is_the_querys():
    features = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    pixels, labels = torch.zeros(3, 1, 16, 16), torch.tensor([0, 0, 1])
    sheet = neighbours_sheet(features, pixels, labels)
    assert sheet.shape == (3, 3 * 20, 3 * 20)
    frames = [sheet[:, 2 + 20 * row, 2 + 20 * column].tolist() for row in range(3) for column in (1, 2)]
    green, red = (sum(frame[channel] > 0.6 and frame[1 - channel] < 0.3 for frame in frames) for channel in (1, 0))
    assert (green, red) == (2, 4)
    unknown = neighbours_sheet(features, pixels, torch.tensor([-1, -1, -1]))
    assert torch.equal(unknown[0], unknown[1])


def test_a_run_leaves_the_sheets_and_a_projector_that_tensorboard_opens(tmp_path):
    words = [*TINY, "--trainer.max_steps", "4", "--probes.every_n_steps", "4"]  # else a slow step in between affords one more
    assert in_process("fit", *words, "--trainer.default_root_dir", tmp_path) == 0
    run = tmp_path / "default" / "version_0"
    assert {path.name for path in (run / "pictures").glob("neighbours_*")} == {"neighbours_00000000.png", "neighbours_00000004.png"}
    told = (run / "projector_config.pbtxt").read_text()
    assert told.count("embeddings {") == 1 and "features" in told
    table = next(run.rglob("tensors.tsv"))
    rows = table.read_text().splitlines()
    assert len(rows) == 12 and len(rows[0].split()) == 32
    titles = table.with_name("metadata.tsv").read_text().split()
    assert len(titles) == 12 and table.with_name("sprite.png").is_file()
