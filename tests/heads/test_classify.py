"""Promises of mae_vlm.heads.classify and what it is made of."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_calibration_error, multiclass_f1_score

from mae_vlm.data.summary import Summary
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.classify import Classify
from mae_vlm.heads.parts.class_metrics import class_metrics, class_tables
from mae_vlm.types import Batch

SIZES = {"width": 32, "depth": 2, "heads": 4, "patch": 8, "image_size": 16}


def a_head(count: int = 7, **more) -> tuple[Towers, Classify]:
    torch.manual_seed(0)
    towers = Towers(Vit(**SIZES))
    head = Classify(towers, classes=count, **more)
    torch.nn.init.normal_(head.linear.weight)
    return towers, head


def a_batch(labels, size: int = 16) -> Batch:
    count = len(labels)
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ids = [f"picture {number}" for number in range(count)]
    return Batch(images, torch.arange(count), torch.ones(count, dtype=torch.bool), torch.tensor(labels), ids)


def test_logits_and_loss_are_those_of_timms_own_classifier_with_the_same_weights():
    towers, head = a_head()
    vit = towers.image
    theirs = timm.create_model(vit.architecture, **vit.model_args | {"num_classes": 7, "fc_norm": True})
    state = {name: value for name, value in vit.vit.state_dict().items() if not name.startswith("norm.")}
    state |= {f"fc_norm.{name}": value for name, value in head.norm.state_dict().items()}
    state |= {f"head.{name}": value for name, value in head.linear.state_dict().items()}
    theirs.load_state_dict(state)
    torch.nn.init.normal_(head.norm.bias)
    theirs.fc_norm.load_state_dict(head.norm.state_dict())
    batch = a_batch([0, 3, 6, 2])
    features = Features(towers, batch)
    answer, logits_BL = head(features), theirs(features.images_BCHW)
    torch.testing.assert_close(answer["logits"], logits_BL, rtol=0, atol=1e-4)
    expected = functional.cross_entropy(logits_BL, batch.labels_B)
    torch.testing.assert_close(head.loss(answer, batch).value, expected, rtol=0, atol=1e-4)


def test_smoothing_is_torchs_own_and_validation_does_without():
    towers, head = a_head(smoothing=0.1)
    batch = a_batch([0, 3, 6, 2])
    answer = head(Features(towers, batch))
    for training, smoothing in ((True, 0.1), (False, 0.0)):
        expected = functional.cross_entropy(answer["logits"], batch.labels_B, label_smoothing=smoothing)
        torch.testing.assert_close(head.train(training).loss(answer, batch).value, expected)


@pytest.mark.parametrize("training", [True, False])
def test_pictures_without_a_label_and_padding_count_zero(training):
    towers, head = a_head()
    head.train(training)
    batch, alone = a_batch([0, -1, 6, 2]), a_batch([0, -1, 6, 2])[2:3]
    batch.real_B[0] = batch.real_B[3] = False
    loss = head.loss(head(Features(towers, batch)), batch)
    torch.testing.assert_close(loss.value, head.loss(head(Features(towers, alone)), alone).value)
    assert head.counts(batch)["cross_entropy"] == loss.terms["cross_entropy"].count == 1


@pytest.mark.parametrize("loss", ["cross_entropy", "binary", "l1", "l2", "smooth_l1"])
def test_a_batch_without_any_target_has_a_finite_loss_and_gradients_for_every_weight(loss):
    towers, head = a_head(1 if loss[0] in "ls" else 7, loss=loss)
    batch = a_batch([-1, -1])
    value = head.loss(head(Features(towers, batch)), batch).value
    value.backward()
    assert value == 0 and all(weight.grad is not None for weight in head.parameters())


def test_binary_is_a_yes_or_no_for_each_class_of_one_label_or_of_several():
    towers, head = a_head(loss="binary")
    batch = a_batch([0, 3])
    answer = head(Features(towers, batch))
    wanted_BL = functional.one_hot(batch.labels_B, 7).float()
    expected = functional.binary_cross_entropy_with_logits(answer["logits"], wanted_BL)
    torch.testing.assert_close(head.loss(answer, batch).value, expected)
    batch.labels_B.fill_(-1)
    batch.soft_labels_BL = torch.tensor([[1.0, 1, 0, 0, 0, 0, 1], [float("nan")] * 7])
    expected = functional.binary_cross_entropy_with_logits(answer["logits"][0], batch.soft_labels_BL[0])
    torch.testing.assert_close(head.loss(answer, batch).value, expected)
    torch.testing.assert_close(torch.stack([one.scores for one in head.predictions(answer, batch)]), answer["logits"].sigmoid())


@pytest.mark.parametrize("loss, error", [("l1", functional.l1_loss), ("l2", functional.mse_loss), ("smooth_l1", functional.smooth_l1_loss)])
def test_a_number_is_learned_by_its_error(loss, error):
    towers, head = a_head(1, loss=loss)
    batch = a_batch([5, 0, -1])
    answer = head(Features(towers, batch))
    expected = error(answer["logits"][:2, 0], torch.tensor([5.0, 0.0]))
    torch.testing.assert_close(head.loss(answer, batch).value, expected)
    metrics = head.metrics()
    head.measure(metrics, answer, batch)
    assert metrics.compute()["l1"] == pytest.approx(functional.l1_loss(answer["logits"][:2, 0], torch.tensor([5.0, 0.0])).item())
    assert head.best == ("l2" if loss == "l2" else "l1", False)


def test_predictions_are_of_the_real_pictures():
    towers, head = a_head()
    batch = a_batch([0, 1, 2])
    batch.real_B[1] = False
    answer = head(Features(towers, batch))
    found = head.predictions(answer, batch)
    assert [one.id for one in found] == ["picture 0", "picture 2"]
    torch.testing.assert_close(found[1].scores, answer["logits"][2].softmax(0))
    assert found[1].boxes is found[1].masks is None


# -- mixing


def test_mixing_blends_neighbours_and_their_labels_alike_and_repeats_itself():
    _, head = a_head(mixup=0.8, smoothing=0.1)
    batch = a_batch([0, 3, 6, 2, 5])
    mixed, again = head.prepare(batch), head.prepare(batch)
    assert torch.equal(mixed.images_BCHW, again.images_BCHW) and torch.equal(mixed.soft_labels_BL, again.soft_labels_BL)
    exact_BL = functional.one_hot(batch.labels_B, 7) * 0.9 + 0.1 / 7
    original = batch.images_BCHW.float() / 255
    for one, other in ((0, 1), (1, 0), (2, 3)):
        share = (mixed.soft_labels_BL[one, batch.labels_B[one]] - 0.1 / 7) / 0.9
        torch.testing.assert_close(mixed.images_BCHW[one], share * original[one] + (1 - share) * original[other])
        torch.testing.assert_close(mixed.soft_labels_BL[one], share * exact_BL[one] + (1 - share) * exact_BL[other])
    assert torch.equal(mixed.images_BCHW[4], original[4])


def test_cutmix_pastes_a_rectangle_and_shares_the_label_by_its_area():
    _, head = a_head(cutmix=1.0)
    batch = a_batch([0, 3])
    batch.images_BCHW[0], batch.images_BCHW[1] = 0, 255
    mixed = head.prepare(batch)
    torch.testing.assert_close(mixed.soft_labels_BL[0, 3], mixed.images_BCHW[0].mean())
    assert set(mixed.images_BCHW.unique().tolist()) == {0.0, 1.0}


def test_mixing_is_the_same_however_the_batch_is_dealt_and_leaves_numpys_numbers_alone():
    import numpy as np

    _, head = a_head(mixup=0.8, cutmix=1.0)
    batch = a_batch([0, 3, 6, 2, -1, 1, 2, 2])
    np.random.seed(5)
    whole, parts = head.prepare(batch), [head.prepare(batch[start : start + 2]) for start in range(0, 8, 2)]
    assert np.random.rand() == np.random.RandomState(5).rand()
    assert torch.equal(whole.images_BCHW, torch.cat([part.images_BCHW for part in parts]))
    assert not torch.equal(whole.images_BCHW[0], batch.images_BCHW[0] / 255)
    assert torch.equal(whole.images_BCHW[4:6], batch.images_BCHW[4:6].float() / 255), "one of the two has no label"
    assert whole.soft_labels_BL[4].isnan().all() and head.counts(whole)["cross_entropy"] == 7


# -- mistakes


@pytest.mark.parametrize(
    "options, told",
    [
        ({"classes": None}, "a classifier needs its classes"),
        ({"classes": 1}, "classes 1 given, a classifier needs two or more"),
        ({"loss": "focal"}, "loss 'focal' given, allowed are cross_entropy, binary, l1, l2, smooth_l1"),
        ({"smoothing": 1.0}, "smoothing 1.0 and dropout 0.0 must be shares"),
        ({"mixup": -0.1}, "mixup -0.1 and cutmix 0.0 must be 0"),
        ({"loss": "l2", "classes": 1, "mixup": 0.8}, "mixup 0.8, cutmix 0.0 go with classes"),
        ({"weight": -1.0}, "head weight -1.0 given"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Classify(Towers(Vit(**SIZES)), **{"classes": 7} | options)


@pytest.mark.parametrize(
    "classes, told",
    [(None, "has no labels to learn"), (["cat"], "has 1 classes, this classifier 2"), (["cat", "cow"], "cow where it has dog")],
)
def test_data_of_other_classes_is_refused(classes, told):
    head = Classify(Towers(Vit(**SIZES)), classes=["cat", "dog"])
    summary = partial(Summary, "pictures", "folder", 10, 5, 0, 16, 16, 3, split="")
    head.check(summary(classes=["cat", "dog"]))
    with pytest.raises(ValueError, match=told):
        head.check(summary(classes=classes))


# -- metrics


def some_scores(count: int = 21):
    draw = torch.Generator().manual_seed(3)
    return torch.randn(count, 7, generator=draw).softmax(1), torch.randint(0, 6, (count,), generator=draw)


def test_metrics_are_the_plain_definitions():
    scores_BL, labels_B = some_scores()
    metrics = class_metrics(7)
    metrics.update(torch.cat([scores_BL, scores_BL[:3]]), torch.cat([labels_B, torch.full((3,), -1)]))
    found = metrics.compute()
    assert found["top1"] == pytest.approx((scores_BL.argmax(1) == labels_B).float().mean().item())
    assert found["top5"] == pytest.approx((scores_BL.topk(5).indices == labels_B[:, None]).any(1).float().mean().item())
    assert found["f1"] == pytest.approx(multiclass_f1_score(scores_BL, labels_B, 7).item())
    assert found["calibration_error"] == pytest.approx(multiclass_calibration_error(scores_BL, labels_B, 7).item())
    assert found["confusion"].sum() == 21 and found["confusion"][6].sum() == 0


def test_perfect_answers_score_one_also_where_a_class_is_absent():
    labels_B = torch.tensor([0, 1, 1, 4])
    metrics = class_metrics(7)
    metrics.update(functional.one_hot(labels_B, 7).float(), labels_B)
    found = metrics.compute()
    assert found["top1"] == found["top5"] == found["f1"] == 1 and found["calibration_error"] == 0


def test_tables_leave_classes_that_never_occur_empty():
    confusion = torch.tensor([[2, 1, 0], [0, 3, 0], [0, 0, 0]])
    tables = class_tables({"confusion": confusion}, ["cat", "dog", "yak"])
    assert tables["classes"] == [
        ["class", "pictures", "precision", "recall", "f1"],
        ["cat", "3", "1.0000", "0.6667", "0.8000"],
        ["dog", "3", "0.7500", "1.0000", "0.8571"],
        ["yak", "0", "", "", ""],
    ]
    assert tables["confusion"][1] == ["cat", "2", "1", "0"]
