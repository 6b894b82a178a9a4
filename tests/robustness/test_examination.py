"""Promises of mae_vlm.robustness.examination, and of what is written about it."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch
from spoilt import labelled, learner
from torchmetrics import MeanMetric, MetricCollection

from mae_vlm.heads.base import Head
from mae_vlm.robustness.corruptions import COMMON
from mae_vlm.robustness.examination import Examination
from mae_vlm.robustness.findings import CLEAN, Findings, Measured, Place
from mae_vlm.robustness.plot import svg
from mae_vlm.robustness.sheet import sheet
from mae_vlm.robustness.table import markdown, rows, screen, table_csv, verdict
from mae_vlm.types import Answer, Frame, Loss, Target, Term


class Boxes(Head):
    """As a detector is to the examination: it wants boxes, and its metric is the pictures' mean grey."""

    wants = frozenset({"boxes"})
    learns = "object_classes"
    best = ("grey", True)

    def __init__(self, towers):
        super().__init__(towers)
        self.factor = torch.nn.Parameter(torch.ones(()))
        self.seen = []

    def forward(self, features):
        self.seen.append(features.batch.images_BCHW)
        return Answer({"grey": features.images_BCHW.mean((1, 2, 3)) * self.factor})

    def counts(self, batch):
        return {"grey": batch.real_B.sum().float()}

    def loss(self, answer, batch):
        return Loss.of({"grey": Term(answer["grey"].sum(), self.counts(batch)["grey"])})

    def metrics(self):
        return MetricCollection({"grey": MeanMetric()})

    def measure(self, metrics, answer, batch):
        metrics.update(answer["grey"])

    def predictions(self, answer, batch):
        raise AssertionError("asked of classifiers only")


@pytest.fixture(scope="module")
def model():
    return learner(steps=40)


@pytest.fixture(scope="module")
def found(model) -> Findings:
    examination = Examination(model)
    examination.add(labelled(32, seed=99))
    (findings,) = examination.findings()
    return findings


def test_clean_is_what_validation_says(model, found):
    batch, head = labelled(32, seed=99), model.heads["classify"]
    model.eval()
    right = head(model.features(batch))["logits"].argmax(1) == batch.labels_B
    assert found.clean == pytest.approx(right.float().mean().item())
    calibrated = found.measured[CLEAN]
    assert calibrated.calibration.error == pytest.approx(calibrated.values["calibration_error"], abs=1e-6)


def test_every_family_is_measured_at_every_strength_and_costs_what_is_told(model, found):
    names = [family.name for family in found.families]
    assert names == [*(family.name for family in COMMON), "occlusion", "patch_shuffle", "random_signs", "pgd"]
    assert set(found.measured) == {CLEAN, *(Place(family.name, level) for family in found.families for level in family.levels)}
    spent = []
    examination = Examination(model, done=spent.append)
    examination.add(labelled(6))
    assert sum(spent) == 6 * examination.cost
    chance, pgd = found.families[-2:]
    assert found.mean(pgd) < found.mean(chance) - 0.2, "an attack is worse than chance"


def test_neither_the_batches_nor_padding_change_what_is_found(model, found):
    batch = labelled(32, seed=99)
    padded = batch[20:]
    padded = replace(padded, real_B=padded.real_B.clone(), labels_B=padded.labels_B.clone())
    examination = Examination(model)
    for part in (batch[:8], batch[8:20], padded):
        examination.add(part)
    filler = batch[:2]
    examination.add(replace(filler, real_B=torch.zeros(2, dtype=torch.bool)))
    (other,) = examination.findings()
    assert other.pictures == found.pictures == 32
    for place, measured in found.measured.items():
        assert other.measured[place].values["top1"] == pytest.approx(measured.values["top1"]), place


def test_the_seed_decides_what_is_by_chance(model, found):
    examination = Examination(model, seed=1)
    examination.add(labelled(32, seed=99))
    (other,) = examination.findings()
    errors = [[one.measured[Place("gaussian_noise", 5)].calibration.error] for one in (found, other)]
    assert errors[0] != errors[1] and other.clean == found.clean


def test_a_head_with_boxes_is_not_shuffled_and_its_padding_is_left_alone():
    model = learner()
    model.heads = torch.nn.ModuleDict({"boxes": Boxes(model.towers)})
    batch = labelled(4)
    batch.targets = [Target(Frame(20, 30, 0, 0, 20, 30, 8, 12)) for _ in range(4)]
    examination = Examination(model)
    examination.add(batch)
    (findings,) = examination.findings()
    assert [family.name for family in findings.families if family.moves] == []
    assert findings.measured[CLEAN].calibration is None and findings.error(findings.families) is None
    clean = batch.images_BCHW.float() / 255
    inside = 0
    for seen in model.heads["boxes"].seen:
        image = seen.detach().float() / (255 if seen.dtype == torch.uint8 else 1)
        if seen.requires_grad:
            continue  # on its way up the slope
        torch.testing.assert_close(image[..., 8:, :], clean[..., 8:, :], rtol=0, atol=1e-6)
        torch.testing.assert_close(image[..., 12:], clean[..., 12:], rtol=0, atol=1e-6)
        inside += not torch.equal(image[..., :8, :12], clean[..., :8, :12])
    assert inside == len(findings.measured) - 1, "all but the clean one are spoilt"
    assert "error" not in rows(findings)[0] and "reliability" not in svg(findings)


def test_pictures_without_any_label_are_told(model):
    examination = Examination(model)
    examination.add(replace(labelled(4), labels_B=torch.full((4,), -1)))
    with pytest.raises(ValueError, match=r"none of the 4 pictures has a label or target for the head classify"):
        examination.findings()


def test_a_regression_has_no_calibration_and_its_drop_is_a_growing_error():
    model = learner(classes=1, loss="l1")
    examination = Examination(model)
    examination.add(labelled(8))
    (findings,) = examination.findings()
    assert (findings.metric, findings.higher) == ("l1", False) and findings.measured[CLEAN].calibration is None
    assert findings.drop(findings.clean + 0.5) == pytest.approx(0.5)
    assert "lower is better" in screen(findings)


# -- what is written


def test_the_table_has_clean_a_row_for_each_family_and_the_mean(found):
    lines = rows(found)
    assert lines[0] == ["pictures", "1", "2", "3", "4", "5", "mean", "drop", "error"]
    assert [line[0] for line in lines[1:]] == ["clean", *(family.name for family in found.families), "12 common corruptions"]
    noise = lines[2]
    values = [float(cell) for cell in noise[1:6]]
    assert float(noise[6]) == pytest.approx(sum(values) / 5, abs=1e-4)
    assert float(noise[7]) == pytest.approx(found.clean - sum(values) / 5, abs=1e-4)
    assert all(len(line) == len(lines[0]) for line in lines)
    everything = [found.value(Place(family.name, level)) for family in COMMON for level in family.levels]
    assert float(lines[-1][6]) == pytest.approx(sum(everything) / 60, abs=1e-4)
    assert f"{sum(everything) / 60:.4f} over the common corruptions" in verdict(found)


def test_the_csv_holds_every_number_with_its_setting(found):
    read = list(csv.DictReader(table_csv([found]).splitlines()))
    assert len(read) == sum(len(measured.values) for measured in found.measured.values())
    one = next(row for row in read if (row["pictures"], row["strength"], row["metric"]) == ("jpeg", "5", "top1"))
    assert (one["head"], one["setting"], one["unit"]) == ("classify", "7", "quality")
    assert float(one["value"]) == pytest.approx(found.value(Place("jpeg", 5)), abs=1e-6)


def test_the_page_tells_the_command_the_numbers_and_the_strengths(found):
    page = markdown([found], "python -m mae_vlm robustness RUN")
    assert "    python -m mae_vlm robustness RUN" in page and verdict(found) in page
    assert "| jpeg | quality | 60, 40, 25, 15, 7 |" in page
    assert page.count("\n| ") == len(rows(found)) + 1 + len(found.families) + 2


def test_the_plot_is_whole_xml_with_a_line_for_every_family_and_the_reliability(found):
    drawn = ElementTree.fromstring(svg(found))
    words = [element.text for element in drawn.iter() if element.tag.endswith("text")]
    assert {family.name for family in found.families} <= set(words)
    assert any(word.startswith("reliability") for word in words)
    lines = [element for element in drawn.iter() if element.tag.endswith("polyline") and element.get("stroke-width") == "2"]
    assert len(lines) == len(found.families) + 2


def test_the_plot_leaves_out_what_is_no_number(found):
    measured = found.measured | {Place("jpeg", 3): Measured({"top1": math.nan})}
    assert "nan" not in svg(replace(found, measured=measured))


def test_the_sheet_shows_every_family_as_it_was_measured(model):
    examination = Examination(model)
    shown = examination.sample(labelled(4), 2)
    assert [name for name, _ in shown] == [*(family.name for family in examination.families), "pgd"]
    assert all(torch.equal(views[0], labelled(4).images_BCHW[:2].float() / 255) for _, views in shown)
    assert all(view.shape == (2, 3, 16, 16) and 0 <= view.min() <= view.max() <= 1 for _, views in shown for view in views)
    drawn = sheet(shown)
    assert drawn.dtype == torch.uint8 and drawn.shape[0] == 3
    assert drawn.shape[1] > len(shown) * 16 and drawn.shape[2] > 12 * 16


@pytest.mark.parametrize("channels, size", [(1, 32), (2, 32), (5, 32), (3, 300)])
def test_the_sheet_takes_pictures_of_any_bands_and_size(channels, size):
    view = torch.rand(2, channels, size, size)
    assert sheet([("clean only", [view, view]), ("shorter", [view])]).shape[0] == 3
