"""Promises of mae_vlm.learners.pretrain."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from mae_vlm.encoders.vit import Vit
from mae_vlm.learners.optim import AdamW
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.objectives.base import Objective
from mae_vlm.objectives.pixels import Pixels
from mae_vlm.tokens.masking import RandomMask
from mae_vlm.types import Batch, Loss

SMALL = partial(Pixels, width=16, depth=1, heads=2)


def a_pretrainer(**objectives) -> Pretrainer:
    torch.manual_seed(0)
    encoder = Vit(width=32, depth=2, heads=4, patch=4, image_size=16)
    return Pretrainer(encoder, RandomMask(0.75), objectives or {"pixels": SMALL}, AdamW(base_lr=1e-3))


def a_batch(count: int = 4) -> Batch:
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.arange(count), torch.ones(count, dtype=torch.bool), torch.full((count,), -1), [f"{i}" for i in range(count)])


class Features32(Objective):
    """The mean of the masked view's tokens: a second objective, which shares the encoder."""

    def forward(self, features, batch):
        return Loss(features.masked.tokens_BTD.square().mean())


def gradients(learner: Pretrainer) -> dict[str, torch.Tensor]:
    learner.zero_grad()
    learner.training_step(a_batch(), 0).backward()
    return {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}


def test_no_objective_is_refused():
    with pytest.raises(ValueError, match="no objective given; the default is pixels"):
        Pretrainer(Vit(width=32, depth=1, heads=4, patch=4, image_size=16), RandomMask(), {}, AdamW())


def test_a_mask_that_leaves_nothing_is_refused_when_built_and_not_at_the_first_step():
    with pytest.raises(ValueError, match="leaves 0 of 4 patches visible"):
        Pretrainer(Vit(width=32, depth=1, heads=4, patch=4, image_size=8), RandomMask(0.8), {"pixels": SMALL}, AdamW())


def test_the_towers_weights_stand_once_in_the_state():
    learner = a_pretrainer(pixels=SMALL, second=SMALL)
    state = learner.state_dict()
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    encoder = {f"towers.image.vit.{name}" for name in learner.towers.image.vit.state_dict()}
    assert {name for name in state if name.startswith("towers.")} == encoder
    assert all(name.startswith(("towers.image.vit.", "objectives.pixels.decoder.", "objectives.second.decoder.")) for name in state)


@pytest.mark.parametrize("weight", [0.5, 2.0, 0.0])
def test_an_objectives_weight_scales_its_gradient(weight):
    plain, weighted = gradients(a_pretrainer()), gradients(a_pretrainer(pixels=partial(SMALL, weight=weight)))
    assert plain.keys() == weighted.keys()
    assert max(value.abs().max() for value in plain.values()) > 1e-3
    for name, value in plain.items():
        torch.testing.assert_close(weighted[name], weight * value, rtol=1e-5, atol=1e-9)


def test_the_loss_is_the_weighted_sum_of_the_objectives():
    learner = a_pretrainer(pixels=partial(SMALL, weight=0.5), extra=partial(Features32, weight=0.25))
    features = learner.features(a_batch())
    parts = [objective(features, features.batch).value.item() for objective in learner.objectives.values()]
    assert learner.training_step(a_batch(), 0).item() == pytest.approx(0.5 * parts[0] + 0.25 * parts[1])


def test_objectives_share_one_masked_pass():
    learner, passes = a_pretrainer(pixels=SMALL, extra=Features32), []
    learner.towers.image.vit.norm.register_forward_hook(lambda *_: passes.append(1))
    learner.training_step(a_batch(), 0)
    assert len(passes) == 1


def test_the_rate_counts_the_images_of_the_whole_optimizer_step():
    learner = a_pretrainer()
    learner.trainer = SimpleNamespace(estimated_stepping_batches=100, datamodule=SimpleNamespace(batch_size=1024))
    configured = learner.configure_optimizers()
    assert configured["optimizer"].param_groups[0]["initial_lr"] == pytest.approx(4e-3)
    assert configured["lr_scheduler"]["interval"] == "step"


def test_batches_that_wait_for_their_turn_are_counted_on_the_learners_device(monkeypatch):
    """Words are there already, and chance must be: two devices do not mix."""

    class Counting(Pixels):
        def counts(self, features):
            return {"all": features.batch.real_B.sum()}

    learner, seen = a_pretrainer(pixels=Counting), []
    learner._trainer = SimpleNamespace(
        accumulate_grad_batches=3, num_training_batches=3, train_dataloader=SimpleNamespace(peek=lambda more: [a_batch()] * more)
    )
    monkeypatch.setattr(Pretrainer, "trainer", property(lambda learner: learner._trainer))
    monkeypatch.setattr(Pretrainer, "device", torch.device("meta"))
    monkeypatch.setattr(learner, "_counts", lambda features: seen.append(features.batch.keys_B.device.type) or {})
    monkeypatch.setattr(learner.shares, "begin", lambda *given: None)
    learner.on_train_batch_start(a_batch().to("meta"), 0)
    assert seen == ["meta"] * 3


def test_a_step_can_be_repeated_from_its_keys():
    first, second = (a_pretrainer().training_step(a_batch(), 0) for _ in range(2))
    assert torch.equal(first, second)


def test_predicted_features_are_those_of_the_real_pictures():
    learner, batch = a_pretrainer().eval(), a_batch(4)
    batch.real_B[2] = False
    with torch.no_grad():
        found = learner.predict_step(batch, 0)
        tokens_BTD = learner.towers.image.full(learner.towers.image.normalise(batch.images_BCHW)).tokens_BTD
    assert found["id"] == ["0", "1", "3"]
    torch.testing.assert_close(found["features"], tokens_BTD[[0, 1, 3], 1:].mean(dim=1))


def test_validation_means_count_every_real_picture_once(monkeypatch):
    learner, logged = a_pretrainer().eval(), {}
    monkeypatch.setattr(learner, "log", lambda name, value, **_: logged.update({name: value.item()}))
    learner.trainer = SimpleNamespace(is_global_zero=True)
    whole = a_batch(6)
    padded = Batch(
        torch.cat([whole.images_BCHW[4:], torch.zeros_like(whole.images_BCHW[:2])]),
        torch.tensor([4, 5, 0, 0]), torch.tensor([True, True, False, False]), torch.full((4,), -1),
    )  # fmt: skip
    with torch.no_grad():
        for batch in (whole[:4], padded):
            learner.validation_step(batch, 0)
        learner.on_validation_epoch_end()
        apart, logged_apart = dict(logged), logged.clear()
        learner.validation_step(whole, 0)
        learner.on_validation_epoch_end()
    assert logged_apart is None
    assert apart.keys() == {"val/loss", "val/pixels/masked_mse", "val/pixels/predict_zero", "val/pixels/other_picture"}
    for name in ("val/loss", "val/pixels/masked_mse", "val/pixels/predict_zero"):
        assert apart[name] == pytest.approx(logged[name], rel=1e-5)


def test_training_teaches_the_model_to_use_what_it_sees():
    """Every picture has its own colour, so only the visible patches of that picture tell what is hidden."""
    torch.manual_seed(0)
    encoder = Vit(width=32, depth=1, heads=4, patch=4, image_size=8)
    learner = Pretrainer(encoder, RandomMask(0.75), {"pixels": partial(SMALL, normalise=False)}, AdamW(base_lr=4e-2))
    optimizer, schedule = learner.optimizer.build(learner, 32, 80)

    def plain_pictures(seed: int) -> Batch:
        draw = torch.Generator().manual_seed(seed)
        colours = torch.randint(0, 256, (32, 3, 1, 1), dtype=torch.uint8, generator=draw)
        images = colours.expand(-1, -1, 8, 8).clone()
        return Batch(images, torch.arange(32) + 1000 * seed, torch.ones(32, dtype=torch.bool), torch.full((32,), -1))

    for step in range(80):
        optimizer.zero_grad()
        learner.training_step(plain_pictures(step + 1), step).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        logs = learner.eval().objectives["pixels"](learner.features(plain_pictures(0)), plain_pictures(0)).logs
    assert logs["masked_mse"] < 0.2 * logs["predict_zero"]
    assert logs["masked_mse"] < 0.1 * logs["other_picture"]


def test_compile_touches_each_block_and_no_name():
    learner, plain = a_pretrainer(), a_pretrainer()
    learner.compile_blocks = True
    learner.on_fit_start()
    blocks = [*learner.towers.image.vit.blocks, *learner.objectives["pixels"].decoder.decoder_blocks]
    compiled = [module for module in learner.modules() if module._compiled_call_impl is not None]
    assert blocks and {id(module) for module in compiled} == {id(module) for module in blocks}
    assert list(learner.state_dict()) == list(plain.state_dict())
