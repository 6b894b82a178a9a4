"""The distillation benchmark compares like with like."""

import json

import pytest
import torch

from mae_vlm.encoders.vit import Vit
from tools import distil_worth
from tools.cifar_pictures import MEAN, STD, Pictures
from tools.distil_worth import ARMS, Bench, Learner, table, train

TEACHER = {"width": 16, "depth": 1, "heads": 2, "patch": 8, "image_size": 32, "mean": MEAN, "std": STD}


@pytest.fixture
def pictures(monkeypatch):
    monkeypatch.setattr(distil_worth, "STUDENT", distil_worth.Recipe(width=16, depth=1, heads=2, patch=8, batch=4, decoder="1x16"))
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Pictures(images, torch.arange(12) % 10)


def test_all_arms_begin_with_the_same_student_and_their_objectives_move_it(pictures):
    learners = {arm: Learner(arm, Vit(**TEACHER), 3) for arm in ARMS}
    states = {arm: {name: value.clone() for name, value in one.towers.image.state_dict().items()} for arm, one in learners.items()}
    for name, value in states["random"].items():
        assert all(torch.equal(state[name], value) for state in states.values()), name
    for arm in ARMS[1:]:
        assert train(learners[arm], pictures, 2, 3)["steps"] == 2
        kernel = "vit.patch_embed.proj.weight"
        assert not torch.equal(learners[arm].towers.image.state_dict()[kernel], states[arm][kernel]), arm


def test_a_finished_unit_is_not_done_again(tmp_path):
    bench = Bench.__new__(Bench)
    bench.out = tmp_path
    assert bench.unit("one", lambda: {"probe": 1.0}) == {"probe": 1.0}
    assert bench.unit("one", lambda: {"probe": 2.0}) == {"probe": 1.0}


def test_the_table_tells_mean_and_spread(tmp_path):
    rates = {"teacher": 300.0, "student": 1500.0, "pixels": 700.0, "distil": 200.0, "both": 200.0}
    (tmp_path / "speed.json").write_text(json.dumps({"images_per_cpu_second": rates, "weights": {"teacher": 1000, "student": 200}}))
    for seed, probe in enumerate((50.0, 53.0)):
        (tmp_path / f"distil-100steps-seed{seed}.json").write_text(json.dumps({"probe": probe, "steps": 100, "cpu_seconds": 60.0}))
    (tmp_path / "distil-300steps-seed0.json").write_text(json.dumps({"probe": 90.0, "steps": 300, "cpu_seconds": 180.0}))
    told = table(tmp_path, 100)
    assert "| distil | 51.50 (50.00 to 53.00) | 2 | 100 | 60 |" in told
    assert "teacher 1,000, student 200 (5.0 times fewer)" in told and "300 and 1500 (5.0 times as many)" in told
