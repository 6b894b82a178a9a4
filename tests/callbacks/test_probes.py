"""Probes look at held-out pictures only, cost what they may, change nothing, and see a run learn."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import DECODER, ENCODER, MACHINE, TINY, curve, in_process, rows

from mae_vlm.callbacks import held_out
from mae_vlm.callbacks.held_out import HeldOut, crosswise, halves, why_unlabelled
from mae_vlm.callbacks.probes import Probes
from mae_vlm.data.module import Data
from mae_vlm.encoders.intermediate import block_means
from mae_vlm.encoders.vit import Vit

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
MANY = [*TINY, "--data.val_scenes", "60", "--probes.time_share", "1", "--trainer.max_steps", "8", "--trainer.log_every_n_steps", "1"]
MANY += ["--trainer.val_check_interval", "8"]
SPECTRUM = {"features/effective_rank", "features/deviation", "features/uniformity"}


def fit(root, *options):
    assert in_process("fit", *options, "--trainer.default_root_dir", root) == 0
    return max((root / "default").iterdir(), key=lambda run: run.name)


def steps_of(run, tag="probe/time_fraction"):
    return sorted(curve(run, tag))


# --- a run through the command line -----------------------------------------------------------------------------------


def test_a_run_with_labels_tells_every_block_at_start_interval_and_end(tmp_path, capsys):
    run = fit(tmp_path, *MANY, "--probes.every_n_steps", "3")
    assert steps_of(run) == [0, 3, 6, 8]
    blocks = {f"probe/block_{block}/{kind}" for block in (1, 2) for kind in ("linear", "knn")}
    tags = {"probe/linear", "probe/knn", "probe/best_block", "probe/time_fraction"} | blocks | SPECTRUM
    last = {tag: curve(run, tag)[8] for tag in tags}
    best = int(last["probe/best_block"])
    assert last["probe/linear"] == last[f"probe/block_{best}/linear"] and last["probe/knn"] == last[f"probe/block_{best}/knn"]
    assert 0 < last["probe/linear"] < 1 and 1 < last["features/effective_rank"] <= 32 and 0 < last["probe/time_fraction"] < 1
    out = capsys.readouterr().out
    start = curve(run, "probe/linear")[0]
    assert f"linear probe (block {best})" in out and f"{start:>8.4f}  {last['probe/linear']:>8.4f}" in out
    assert "kNN (understates MAE)" in out and "% of the run's time" in out


def test_training_is_bit_equal_with_and_without_probes(tmp_path):
    with_them = fit(tmp_path / "with", *MANY, "--probes.every_n_steps", "2")
    without = fit(tmp_path / "without", *MANY, "--probes.pictures", "0")
    assert steps_of(with_them) == [0, 2, 4, 6, 8]
    assert "probe/time_fraction" not in rows(without)[0]
    losses = curve(without, "train/loss")
    assert len(losses) == 8 and curve(with_them, "train/loss") == losses
    assert curve(with_them, "val/loss") == curve(without, "val/loss")


def test_a_resumed_run_keeps_its_start_and_adds_up_its_time(tmp_path):
    run = fit(tmp_path, *MANY)
    start = curve(run, "probe/linear")[0]
    first = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]["Probes"]
    assert fit(tmp_path, *MANY, "--trainer.max_steps", "12", "--ckpt_path", "last") == run
    kept = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]["Probes"]
    assert kept["start"]["probe/linear"] == pytest.approx(start) and kept["step"] == 12
    assert kept["spent"] > first["spent"] > 0 and kept["elapsed"] > first["elapsed"] > 0
    assert steps_of(run)[0] == 0 and steps_of(run)[-1] == 12


def test_without_labels_only_the_spectrum_is_watched(tmp_path, capsys):
    from data.pictures_on_disk import write_folder

    photos = write_folder(tmp_path / "photos", [f"{number}.png" for number in range(60)])
    words = [*MACHINE, *ENCODER, *DECODER, "--data.path", photos, "--data.val_fraction", "0.4", "--data.image_size", "16"]
    run = fit(tmp_path, *words, "--data.batch_size", "8", "--trainer.max_steps", "2")
    columns = set(rows(run)[0])
    assert columns >= SPECTRUM | {"probe/time_fraction"} and "probe/linear" not in columns
    out = capsys.readouterr().out
    assert "effective rank" in out and "kNN" not in out


def test_too_few_validation_pictures_are_told_in_one_line(tmp_path, capsys):
    run = fit(tmp_path, *TINY, "--trainer.max_steps", "2")
    columns = set(rows(run)[0])
    assert columns >= SPECTRUM and "probe/linear" not in columns
    told = [line for line in capsys.readouterr().out.splitlines() if "probes:" in line]
    assert len(told) == 1 and "too few (2 of a class, 20 in all); keep more by data.val_fraction" in told[0]


def test_no_validation_pictures_are_told_in_one_line(tmp_path, capsys):
    run = fit(tmp_path, *TINY, "--data.val_scenes", "0", "--trainer.max_steps", "3")
    assert "features/deviation" not in rows(run)[0]
    assert len([line for line in capsys.readouterr().out.splitlines() if "probes: no validation pictures" in line]) == 1


@pytest.mark.parametrize("options", [{"every_n_steps": 0}, {"every_n_minutes": 0.0}, {"pictures": -1}, {"time_share": 0.0}])
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Probes(**options)


@pytest.mark.skipif(not (SHARED / "cifar10").is_dir(), reason="no ../shared/data/cifar10")
def test_features_of_real_photos_are_better_at_the_end_than_at_the_start(tmp_path):
    words = [*MACHINE, "--pictures.count", "1", "--data.path", SHARED / "cifar10", "--data.batch_size", "64", "--data.image_size", "32"]
    words += ["--model.encoder.width", "48", "--model.encoder.depth", "2", "--model.encoder.heads", "2", "--model.encoder.patch", "8"]
    words += [*DECODER, "--model.optimizer.base_lr", "6e-3", "--trainer.limit_val_batches", "1", "--probes.time_share", "1"]
    run = fit(tmp_path, *words, "--trainer.max_steps", "120", "--trainer.val_check_interval", "1000")
    for tag in ("probe/linear", "probe/knn"):
        scores = curve(run, tag)
        assert scores[0] > 0.15 and scores[120] > scores[0] + 0.01


# --- which pictures ---------------------------------------------------------------------------------------------------


def a_part(data, count, rank=0, world=1):
    data.setup("fit")
    return HeldOut(data.val_dataloader().dataset, count, rank, world)


@pytest.fixture
def photos(tmp_path):
    from data.pictures_on_disk import write_folder

    write_folder(tmp_path / "photos", [f"{'cat' if number % 2 else 'dog'}/{number}.png" for number in range(120)])
    return Data(str(tmp_path / "photos"), image_size=16, batch_size=8, num_workers=0, val_fraction=0.3)


def test_no_held_out_picture_is_one_of_the_training_set(photos):
    part = a_part(photos, 1000)
    trained = {name for batch in photos.train_dataloader() for name in batch.ids}
    assert len(trained) > 60 and len(part.ids) == part.count == photos.inspect().val
    assert not trained & set(part.ids)


def test_the_part_is_the_same_every_time_and_a_smaller_one_lies_in_it(photos):
    first, again, smaller = a_part(photos, 30), a_part(photos, 30), a_part(photos, 12)
    assert first.ids == again.ids and smaller.ids == first.ids[:12]
    assert all(torch.equal(a.images_BCHW, b.images_BCHW) for a, b in zip(first.batches, again.batches, strict=True))
    seen = {name: picture for batch in photos.val_dataloader() for name, picture in zip(batch.ids, batch.images_BCHW, strict=True)}
    shown = [picture for batch in first.batches for picture in batch.images_BCHW]
    assert all(torch.equal(seen[name], picture) for name, picture in zip(first.ids, shown, strict=True))  # as validation sees them


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_pictures_and_put_the_features_back_in_order(photos, world):
    torch.manual_seed(0)
    encoder = Vit(width=16, depth=2, heads=2, patch=8, image_size=16).eval()
    alone, shares = a_part(photos, 11), [a_part(photos, 11, rank, world) for rank in range(world)]
    assert sorted(name for share in shares for name in share.ids) == sorted(alone.ids)
    told: list[torch.Tensor] = []  # by each process, features then labels
    tells = SimpleNamespace(device=torch.device("cpu"), all_gather=lambda own: told.append(own) or torch.stack([own] * world))
    with torch.no_grad():
        for share in shares:
            share.features(tells, encoder), share.labels(tells)
        for number, part in enumerate(("features", "labels")):
            hears = SimpleNamespace(device=torch.device("cpu"), all_gather=lambda _, at=number: torch.stack(told[at::2]))  # of one shape
            words = (encoder,) if part == "features" else ()
            found, expected = getattr(shares[0], part)(hears, *words), getattr(alone, part)(hears, *words)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_pixels_in_memory_are_bounded(photos, monkeypatch):
    monkeypatch.setattr(held_out, "_BYTES", 5 * 3 * 16 * 16 + 10)
    assert a_part(photos, 30).count == 5


def test_halves_share_out_each_class_and_leave_out_what_cannot_be():
    labels = torch.tensor([4, 4, 4, 9, -1, 7, 9, 4, 4, 2, 2, 2, -1])
    first, second = halves(labels)
    assert not set(first.tolist()) & set(second.tolist())
    assert sorted(first.tolist() + second.tolist()) == [0, 1, 2, 3, 6, 7, 8, 9, 10, 11]
    for label in (4, 9, 2):
        assert abs((labels[first] == label).sum() - (labels[second] == label).sum()) <= 1
    assert len(first) == len(second) == 5


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        (torch.arange(40) % 2, ""),
        (torch.full((40,), -1), ""),
        (torch.zeros(40, dtype=torch.int64), "the 40 labelled ones of 40 held-out pictures are of one class"),
        (torch.where(torch.arange(40) < 30, 5, -1), "the 30 labelled ones of 40"),
        (torch.arange(40), "40 labelled held-out pictures of 40 classes are too few"),
        (torch.arange(12) % 2, "12 labelled held-out pictures of 2 classes are too few"),
        (torch.where(torch.arange(100) < 60, torch.arange(100) % 3, -1), ""),
        (torch.arange(2000) % 1000, ""),
    ],
)
def test_what_cannot_be_probed_is_told(labels, why):
    told = why_unlabelled(labels)
    assert told.startswith(why) and bool(told) == bool(why)


def test_every_picture_is_scored_by_what_never_saw_it():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (200,), generator=generator)
    noise = torch.randn(200, 400, generator=generator)  # more features than pictures: what was seen could be known by heart
    scores = crosswise(noise, labels)
    assert max(scores.linear, scores.knn) < 0.4
    centres = torch.randn(4, 400, generator=generator)
    scores = crosswise(noise + 2 * centres[labels], labels)
    assert scores.linear == scores.knn == scores.held == 1.0


def test_a_thousand_classes_with_two_pictures_each():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1000).repeat(2)
    features = torch.randn(1000, 32, generator=generator)[labels] + 0.1 * torch.randn(2000, 32, generator=generator)
    assert crosswise(features, labels).knn > 0.95


OWN_SIZES = {"width": 32, "depth": 3, "heads": 2, "patch": 4, "image_size": 16}


@pytest.mark.parametrize("options", [OWN_SIZES, {"name": "eva02_tiny_patch14_224"}])
def test_the_last_block_is_what_everything_else_sees(options):
    torch.manual_seed(0)
    encoder = Vit(**options).eval()
    images = encoder.normalise(torch.rand(2, 3, encoder.space.height, encoder.space.width))
    with torch.no_grad():
        means = block_means(encoder, images)
        expected = encoder.full(images).patches_BND.mean(dim=1)
        outputs = []
        encoder.vit.blocks[0].register_forward_hook(lambda *call: outputs.append(call[2]))
        encoder.full(images)
    assert means.shape == (len(encoder.vit.blocks), 2, encoder.width)
    torch.testing.assert_close(means[-1], expected)
    torch.testing.assert_close(means[0], outputs[0][:, encoder.prefix :].mean(dim=1))


# --- when, by a clock that tests turn ---------------------------------------------------------------------------------


class Run:
    """A run whose steps take a second and whose probes take ``cost`` seconds."""

    def __init__(self, cost, validate_every=10, **options):
        self.now, self.cost, self.validate_every = 0.0, cost, validate_every
        self.probes, self.steps, self.logged = Probes(**options), [], []
        self.probes.clock = lambda: self.now
        self.probes._can = lambda *_: True
        self.probes._looked_at = self.looked_at
        self.probes.part = "held out"
        logger = SimpleNamespace(log_metrics=lambda metrics, step: self.logged.append((step, dict(metrics))))
        strategy = SimpleNamespace(broadcast=lambda value: value)
        self.trainer = SimpleNamespace(global_step=0, world_size=1, accumulate_grad_batches=1, estimated_stepping_batches=1000)
        self.trainer.callbacks, self.trainer.loggers, self.trainer.strategy = [], [logger], strategy

    def looked_at(self, trainer, module):
        self.now += self.cost
        self.steps.append(trainer.global_step)
        return None, torch.zeros(0)

    def train(self, steps):
        self.probes.on_train_start(self.trainer, None)
        self.probes.part = "held out"
        self.probes.on_validation_end(self.trainer, None)
        for _ in range(steps):
            self.probes.on_train_batch_start(self.trainer, None, [0] * 8, 0)
            self.now += 1.0
            self.trainer.global_step += 1
            if self.trainer.global_step % self.validate_every == 0:
                self.probes.on_validation_end(self.trainer, None)
        self.probes.on_train_end(self.trainer, None)
        return self


@pytest.mark.parametrize("cost", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("share", [0.03, 0.2])
def test_the_cost_stays_within_the_share_but_for_the_first_and_the_last(cost, share):
    run = Run(cost, time_share=share).train(1000)
    assert run.steps[0] == 0 and run.steps[-1] == 1000
    assert all(step % 10 == 0 for step in run.steps)
    assert run.probes.spent <= max(share * run.now, 2 * cost) + 1e-6
    assert len(run.steps) > 0.7 * min(share * run.now / cost, 100) - 1  # and what may be spent, is
    told = run.logged[-1][1]["probe/time_fraction"]
    assert told == pytest.approx(run.probes.spent / run.now) == pytest.approx(len(run.steps) * cost / run.now)


def test_probes_that_cost_more_than_all_of_it_come_at_start_and_end_alone():
    assert Run(100.0).train(1000).steps == [0, 1000]


def test_a_probe_that_gets_slower_comes_less_often():
    run = Run(0.1)
    run.train(200)
    early = len(run.steps)
    run.cost = 5.0
    run.train(200)
    assert early > 10 and len(run.steps) - early <= 3


def test_an_interval_of_steps_is_kept_whatever_it_costs():
    assert Run(50.0, every_n_steps=30).train(100).steps == [0, 30, 60, 90, 100]


def test_an_interval_of_minutes_is_looked_at_every_ten_steps():
    assert Run(0.0, every_n_minutes=0.5).train(100).steps == [0, 40, 80, 100]


def test_accumulated_micro_steps_are_probed_once():
    run = Run(0.0, every_n_steps=1)
    run.probes.on_train_start(run.trainer, None)
    run.probes.part = "held out"
    for step in (0, 0, 0, 1, 1):
        run.trainer.global_step = step
        run.probes.on_train_batch_start(run.trainer, None, [0] * 8, 0)
    assert run.steps == [0, 1]


def test_time_gone_by_counts_on_after_a_resume():
    run, again = Run(1.0).train(100), Run(1.0)
    again.probes.load_state_dict(run.probes.state_dict())
    again.trainer.global_step = 100
    again.train(100)
    assert again.probes.spent == pytest.approx(run.probes.spent + again.cost * len(again.steps))
    assert again.probes.elapsed() == pytest.approx(run.now + again.now)


def test_the_first_process_decides_for_all(monkeypatch):
    other = Run(0.0, time_share=0.5)
    monkeypatch.setattr("mae_vlm.callbacks.probes.first_says", lambda trainer, value: False)
    assert other.train(100).steps == [0, 100]


@pytest.mark.parametrize(("images", "pictures"), [(51_200, 384), (143_360, 1075), (10**9, 2000), (float("inf"), 2000), (400, 100)])
def test_a_short_run_looks_at_fewer_pictures(images, pictures):
    assert Probes().count_for(images) == pictures
    assert Probes(pictures=50).count_for(images) == 50


HEALTHY, FLAT, SAME = (0.28, 0.55), (0.15, 0.9), (0.9, 0.03)  # rank and deviation, as shares of the start's


@pytest.mark.parametrize(
    ("shares", "warned_after"),
    [
        ([HEALTHY] * 5, None),
        ([FLAT, HEALTHY, SAME, HEALTHY], None),
        ([HEALTHY, FLAT, FLAT, FLAT], 3),
        ([SAME] * 3, 2),
        ([HEALTHY, SAME], 2),
    ],
    ids=["a usual dip", "single dips", "few directions", "all the same", "at the end"],
)
def test_collapse_is_told_once_against_the_runs_own_start(shares, warned_after):
    probes, lines, counts = Probes(), [], []
    trainer = SimpleNamespace(print=lines.append)
    probes.start = {"features/effective_rank": 20.0, "features/deviation": 0.5, "features/uniformity": -1.0}
    for number, (rank, spread) in enumerate(shares, start=1):
        probes.end = {"features/effective_rank": 20.0 * rank, "features/deviation": 0.5 * spread, "features/uniformity": -1.0}
        probes._warn(trainer, ended=number == len(shares))
        counts.append(len(lines))
    assert counts == [int(warned_after is not None and number >= warned_after) for number in range(1, len(shares) + 1)]
    assert all("may be collapsing" in line and "(start " in line and "\n" not in line for line in lines)
