"""Promises of what the objectives of words learn from the towers' moving average."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from captioned import a_batch, a_text, an_image, stirred

from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.learners.optim import AdamW
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.objectives.image_text import SoftmaxContrast
from mae_vlm.objectives.masked_language import MaskedLanguage
from mae_vlm.pairing.contrast import softmax_contrast
from mae_vlm.pairing.pairs import identities, pairs
from mae_vlm.tokens.masking import RandomMask

CONTRAST, LANGUAGE = partial(SoftmaxContrast, width=8, ramp=0), partial(MaskedLanguage, share=0.4, ramp=0)


def a_learner(teacher: float | None = 0.9, chunks: int = 1, **objectives) -> Pretrainer:
    """Its teacher's weights are others than its own."""
    torch.manual_seed(0)
    alone = "language" not in objectives or objectives["language"].keywords.get("picture") is False
    fusion = None if alone else partial(CrossAttention, depth=1, heads=2)
    learner = Pretrainer(an_image(), RandomMask(0.75), objectives, AdamW(), a_text(), fusion, chunks, teacher)
    return stirred(learner.double()).train()


def stepped(learner: Pretrainer, batch=None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch and the gradients."""
    batch = a_batch() if batch is None else batch
    learner.shares.begin([learner._counts(learner.features(batch))], 1, torch.device("cpu"))
    loss = learner.training_step(batch, 0)
    loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in learner.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize(("name", "part"), [("contrast", CONTRAST), ("contrast", partial(CONTRAST, view="masked")), ("language", LANGUAGE)])
def test_in_a_runs_first_step_of_a_ramp_and_with_alpha_0_loss_and_gradients_are_the_plain_ones_to_the_bit(name, part):
    plain, gradients = stepped(a_learner(teacher=None, **{name: part}))
    for teacher, options in ((None, {"alpha": 0.0}), (0.9, {"alpha": 0.4, "ramp": 10})):
        loss, found = stepped(a_learner(teacher=teacher, **{name: partial(part, **options)}))
        assert torch.equal(loss, plain) and all(torch.equal(found[weight], value) for weight, value in gradients.items())
    distilled, _ = stepped(a_learner(**{name: partial(part, alpha=0.4)}))
    assert abs(distilled - plain) > 1e-3


@pytest.mark.parametrize("picture", [True, False])
def test_hidden_words_are_learned_by_albefs_equation_7(picture):
    learner, batch = a_learner(language=partial(LANGUAGE, alpha=0.3, picture=picture), contrast=CONTRAST), a_batch()
    objective, features = learner.objectives["language"], learner.features(batch)
    masked, terms = objective._masked(features), []
    shown = []
    for seen, head in ((features, objective.head), (features.teacher(), objective.slow)):
        text = seen.read(masked.words)
        tokens_BTD = seen.fuse(text).tokens_BTD if picture else text.tokens_BTD
        shown.append((tokens_BTD, head, seen.word_table))
    for row, place in masked.hidden_BS.nonzero().tolist():
        p, q = (head(tokens_BTD[row, masked.slots_BS[row, place]], table).softmax(-1) for tokens_BTD, head, table in shown)
        terms.append(0.7 * -p[masked.truth_BS[row, place]].log() + 0.3 * (q * (q / p).log()).sum())
    loss = objective(learner.features(batch), batch)
    assert len(terms) > 8 and torch.allclose(loss.value, torch.stack(terms).mean(), rtol=0, atol=1e-12)


def test_a_part_of_a_teacher_follows_at_its_pace_and_gets_no_gradient():
    learner = a_learner(contrast=partial(CONTRAST, alpha=0.4), language=partial(LANGUAGE, alpha=0.4))
    stepped(learner)
    assert all(weight.grad is None for weight in [*learner.teacher.parameters(), *learner.objectives["language"].slow.parameters()])
    head, slow = learner.objectives["language"].head.dense.weight, learner.objectives["language"].slow.dense.weight
    wanted = [0.9 * old + 0.1 * new for old, new in ((slow, head), (learner.teacher.joint.image.weight, learner.towers.joint.image.weight))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning.LightningModule.optimizer_step", lambda *_: None)
        learner.optimizer_step()
    torch.testing.assert_close([slow.data, learner.teacher.joint.image.weight.data], wanted)


def test_validation_tells_the_plain_loss_and_leaves_the_queue_as_it_is():
    learner, batch = a_learner(contrast=partial(CONTRAST, alpha=0.4, queue=24)).eval(), a_batch()
    objective, features = learner.objectives["contrast"], learner.features(batch)
    loss = objective(features, batch)
    found, told = features.embedded, pairs(features)
    assert torch.equal(loss.value, softmax_contrast(found, told, objective.scale()) / told.has_B.sum())
    objective.after_step()
    assert not objective.queue.there_Q.any()


def test_the_queue_holds_what_the_teacher_made_of_the_captions_that_were_read():
    learner, batch = a_learner(contrast=partial(CONTRAST, queue=10)), a_batch()
    objective = learner.objectives["contrast"]
    features = learner.features(batch)
    objective(features, batch)
    objective.after_step()
    has_B = features.words.has_B
    assert int(has_B.sum()) == 8 == int(objective.queue.there_Q.sum())
    assert torch.equal(objective.queue.text_QE[:8], features.teacher().embedded.text_BE[has_B].detach())
    assert torch.equal(objective.queue.who_Q2[:8], identities(features)[has_B])
    objective(learner.features(replace(batch, keys_B=batch.keys_B + 50)), batch)
    objective.after_step()
    assert objective.queue.there_Q.all() and int(objective.queue.place) == 6


def test_a_picture_of_the_last_steps_is_no_negative_of_itself():
    """The teacher's own pair comes again, the nearest of all: alone in its batch and in the queue it has no negative."""
    learner = a_learner(contrast=partial(CONTRAST, queue=16))
    objective, batch = learner.objectives["contrast"], a_batch([("a ring",)])
    for _ in range(3):
        assert objective(learner.features(batch), batch).value == 0
        objective.after_step()
    assert int(objective.queue.there_Q.sum()) == 3
    for other in (replace(batch, ids=["another"]), replace(batch, captions=[("a red square",)])):  # same words, same picture
        assert objective(learner.features(other), other).value == 0
    other = replace(batch, ids=["another"], captions=[("a red square",)])
    assert objective(learner.features(other), other).value > 0.1


def test_a_batch_without_captions_is_finite_and_gives_every_weight_a_gradient_of_0():
    learner = a_learner(contrast=partial(CONTRAST, alpha=0.4, queue=8), language=partial(LANGUAGE, alpha=0.4))
    loss, gradients = stepped(learner, a_batch([()] * 4))
    assert loss == 0 and all((value == 0).all() for value in gradients.values())
    for part in learner.objectives.values():
        part.after_step()
    assert not learner.objectives["contrast"].queue.there_Q.any()


def test_nothing_new_is_in_the_checkpoint_of_a_run_that_learns_from_no_teacher():
    names = a_learner(teacher=None, contrast=CONTRAST, language=LANGUAGE).state_dict().keys()
    assert not [name for name in names if "trust" in name or "queue" in name or "slow" in name or name.startswith("teacher")]


def test_its_weights_and_queue_come_back_from_a_state_dict():
    whole = a_learner(contrast=partial(CONTRAST, alpha=0.4, ramp=4, queue=24), language=partial(LANGUAGE, alpha=0.4, ramp=4))
    for _ in range(2):
        stepped(whole)
        for part in whole.objectives.values():
            part.after_step()
    again = a_learner(contrast=partial(CONTRAST, alpha=0.4, ramp=4, queue=24), language=partial(LANGUAGE, alpha=0.4, ramp=4))
    assert not torch.equal(stepped(again)[0], stepped(whole)[0])
    again.load_state_dict(whole.state_dict())
    assert torch.equal(stepped(again)[0], stepped(whole)[0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"contrast": partial(CONTRAST, alpha=0.4)}, "model.teacher None given, but an objective learns from it; set it to .995"),
        ({"contrast": partial(CONTRAST, queue=4)}, "model.teacher None given, but an objective learns from it"),
        ({"language": partial(LANGUAGE, alpha=0.4)}, "model.teacher None given, but an objective learns from it"),
        ({"contrast": partial(CONTRAST, queue=-1)}, "queue -1 given, allowed is 0"),
        ({"contrast": partial(CONTRAST, alpha=2.0)}, "alpha 2.0, ramp 0 given"),
        ({"language": partial(LANGUAGE, ramp=-1)}, "alpha 0.0, ramp -1 given"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(options, says):
    with pytest.raises(ValueError, match=says) as told:
        a_learner(teacher=None, **options)
    assert "\n" not in str(told.value)
