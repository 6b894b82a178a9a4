from __future__ import annotations

from dataclasses import replace

import pytest
from tiny_runs import TINY, in_new_process, in_process

from mae_vlm.cli.verdict import Rates, verdict

FED = Rates(
    loader=4000,
    model=1000,
    together=990,
    waited=0.01,
    workers=8,
    cores=16,
    ahead_bytes=100 << 20,
    shared_bytes=1 << 30,
    typical=(300, 400),
    size=(224, 224),
    cpu=False,
    path="MINE",
)
STARVED = replace(FED, loader=500, together=480, waited=0.5, workers=4)


def test_a_run_that_never_waits_is_bound_by_its_model():
    first, change = verdict(FED)
    assert first.startswith("bottleneck: the model") and "1%" in first and "4000" in first
    assert "--data.num_workers 3 would do" in change


def test_a_run_that_waits_is_told_how_many_workers_would_feed_it():
    first, change = verdict(STARVED)
    assert first.startswith("bottleneck: the loader") and "50%" in first
    assert change == "change: --data.num_workers 8 (now 4; 16 cores)"


def test_a_loader_that_is_far_quicker_than_the_model_is_not_blamed():
    first = verdict(replace(FED, loader=16_000, waited=0.19))[0]
    assert first.startswith("bottleneck: the model") and "19%" in first and "16000" in first
    assert verdict(replace(FED, loader=3_900, waited=0.19))[0].startswith("bottleneck: the loader")


def test_where_all_cores_work_already_the_pictures_are_to_be_shrunk():
    _, change = verdict(replace(STARVED, workers=16, typical=(2000, 3000)))
    assert "python -m data_prep shards MINE DST --short-side 258" in change
    _, change = verdict(replace(STARVED, workers=16))
    assert change.startswith("change: nothing in the config")


def test_a_small_shm_is_told_with_the_size_that_is_needed():
    assert "--shm-size=128m" in verdict(replace(FED, shared_bytes=64 << 20))[-1]
    assert len(verdict(replace(FED, shared_bytes=64 << 20, workers=0))) == 2
    assert len(verdict(replace(FED, shared_bytes=None))) == 2


@pytest.fixture
def quick(monkeypatch):
    pytest.importorskip("lightning")
    from mae_vlm.cli import doctor

    monkeypatch.setattr(doctor, "_SECONDS", 0.01)
    monkeypatch.setattr(doctor, "_MOST", 6)
    monkeypatch.setattr(doctor, "_ENOUGH", 0.0)


def test_doctor_measures_a_run_and_leaves_nothing_behind(quick, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert in_process("doctor", *TINY) == 0
    told = capsys.readouterr().out
    for line in ("loader alone:", "model alone:", "both together:", "bottleneck: the ", "change: "):
        assert line in told
    assert list(tmp_path.iterdir()) == []


def test_doctor_finds_a_loader_that_is_slow(quick, capsys, tmp_path, monkeypatch):
    import time

    from mae_vlm.data.sources.scenes import Scenes

    draw = Scenes.__getitem__
    monkeypatch.setattr(Scenes, "__getitem__", lambda self, index: (time.sleep(0.02), draw(self, index))[1])
    monkeypatch.setattr("mae_vlm.data.cache.PixelCache.fits", staticmethod(lambda *ignored: False))
    monkeypatch.chdir(tmp_path)
    assert in_process("doctor", *TINY) == 0
    assert "bottleneck: the loader" in capsys.readouterr().out


def test_doctor_tells_a_mistake_in_one_line(complaint, tmp_path):
    assert "does not exist" in complaint("doctor", "--data.path", tmp_path / "nowhere")


def test_doctors_help_needs_no_torch(tmp_path):
    process = in_new_process("doctor", "--help", cwd=tmp_path)
    assert process.returncode == 0 and "doctor --config X" in process.stdout
