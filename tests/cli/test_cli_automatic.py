"""The automatic choices, as the pure function of config, collection and machine that they are."""

from __future__ import annotations

import copy

import pytest

from mae_vlm.cli.automatic import PIXELS, PRETRAINER, VIT, choose, decoder_for
from mae_vlm.cli.machine import Machine
from mae_vlm.data.summary import Summary

LAPTOP = Machine("cpu", 1, 8, False, 1e11)
GPU = Machine("cuda", 1, 16, True, 3e14)
FOUR_GPUS = Machine("cuda", 4, 64, True, 3e14)
OPEN_TRAINER = ("devices", "max_steps", "max_epochs", "precision", "log_every_n_steps", "val_check_interval", "check_val_every_n_epoch")


def photos(train=5000, height=400, width=500, channels=3, format="folder"):
    return Summary("photos", format, train, 100, 0, height, width, channels, None, "")


def empty(**said):
    """A config in which nobody said anything, but ``said`` at dotted keys (double underscores for dots)."""
    encoder = dict.fromkeys(("name", "width", "depth", "heads", "patch", "image_size", "channels", "mean", "std"))
    config = {
        "data": dict.fromkeys(("image_size", "channels", "num_workers", "batch_size", "mean", "std")) | {"format": "auto"},
        "trainer": dict.fromkeys(OPEN_TRAINER) | {"num_nodes": 1, "accumulate_grad_batches": 1},
        "model": {
            "class_path": PRETRAINER,
            "init_args": {
                "encoder": {"class_path": VIT, "init_args": encoder},
                "objectives": {"pixels": {"class_path": PIXELS, "init_args": {"width": None, "depth": None}}},
                "optimizer": {"class_path": "mae_vlm.learners.optim.AdamW", "init_args": {"base_lr": None}},
            },
        },
    }
    for key, value in said.items():
        *way, name = key.split("__")
        place = config
        for step in way:
            place = place[step] if step != "encoder" else config["model"]["init_args"]["encoder"]["init_args"]
        place[name] = value
    return config


def chosen(config, summary=None, machine=LAPTOP, **options):
    return {choice.key.replace("init_args.", ""): choice.value for choice in choose(config, summary or photos(), machine, **options)}


def leaves(config, prefix=""):
    for key, value in config.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("machine", [LAPTOP, GPU, FOUR_GPUS], ids=["laptop", "gpu", "four gpus"])
@pytest.mark.parametrize("summary", [photos(), photos(40, 32, 32, 1), photos(2_000_000), photos(10_000, 64, 64, 3, "scenes")], ids=str)
def test_everything_open_is_filled_and_said(machine, summary):
    config = empty()
    choices = choose(config, summary, machine)
    filled = dict(leaves(config))
    assert all(filled[choice.key] == choice.value and choice.reason for choice in choices)
    left = {key for key, value in filled.items() if value is None}
    at = "model.init_args.encoder.init_args"
    may_stay = {"data.mean", "data.std", f"{at}.name", f"{at}.mean", f"{at}.std", "trainer.devices", "trainer.max_epochs"}
    assert left <= may_stay | {"trainer.check_val_every_n_epoch"}
    assert choose(config, summary, machine) == [], "a second look finds nothing open"


@pytest.mark.parametrize("machine", [LAPTOP, FOUR_GPUS], ids=["laptop", "four gpus"])
def test_nothing_given_is_overwritten(machine):
    config = empty()
    choose(config, photos(), machine)
    other = {"int": 48, "str": "given", "float": 0.125}
    for key, value in list(leaves(config)):
        if value is None or key in ("trainer.max_epochs", "trainer.num_nodes", "trainer.accumulate_grad_batches"):
            continue
        given = copy.deepcopy(EMPTY_AFTER)
        *way, name = key.split(".")
        place = given
        for step in way:
            place = place[step]
        if key.endswith("class_path"):
            continue
        place[name] = other[type(value).__name__]
        choices = choose(given, photos(), machine)
        assert place[name] == other[type(value).__name__], key
        assert key not in [choice.key for choice in choices]


EMPTY_AFTER = empty()


def test_choices_are_a_pure_function():
    one, two = empty(), empty()
    assert choose(one, photos(), GPU) == choose(two, photos(), GPU)
    assert one == two


def test_a_cpu_gets_what_it_can_learn_and_a_gpu_more():
    cpu, gpu = chosen(empty(), photos(200_000)), chosen(empty(), photos(200_000), GPU)
    assert cpu["model.encoder.width"] == 128 and gpu["model.encoder.width"] == 768
    assert chosen(empty(), photos(20_000), GPU)["model.encoder.width"] == 384
    assert cpu["data.image_size"] < gpu["data.image_size"] == 224
    assert cpu["data.batch_size"] < gpu["data.batch_size"]
    assert (cpu["trainer.precision"], gpu["trainer.precision"]) == ("32-true", "bf16-mixed")


def test_precision_follows_the_hardware():
    assert chosen(empty(), machine=Machine("cpu", 1, 8, True, 1e11))["trainer.precision"] == "bf16-mixed"
    assert chosen(empty(), machine=Machine("cuda", 1, 8, False, 1e13))["trainer.precision"] == "32-true"


@pytest.mark.parametrize("devices, share", [("auto", 4), (3, 3), ("3", 3), ([0, 1], 2), ("0,1", 2), (-1, 4)])
@pytest.mark.parametrize("accumulation, nodes", [(1, 1), (3, 1), (2, 2)])
def test_batch_is_divisible_by_processes_and_accumulation(devices, share, accumulation, nodes):
    config = empty(trainer__devices=devices, trainer__accumulate_grad_batches=accumulation, trainer__num_nodes=nodes)
    size = chosen(config, photos(5000), FOUR_GPUS)["data.batch_size"]
    assert size % (share * accumulation * nodes) == 0 and 0 < size <= 5000 // 4


@pytest.mark.parametrize("train", [20, 100, 1000, 10**6])
def test_batch_leaves_several_steps_an_epoch(train):
    size = chosen(empty(), photos(train))["data.batch_size"]
    assert 1 <= size <= max(8, train // 4)


@pytest.mark.parametrize("size", [28, 32, 36, 64, 96, 112, 144, 196, 224, 256, 384, (64, 96), (48, 80), (224, 112)])
def test_patch_divides_the_size_given(size):
    config = empty(data__image_size=size)
    patch = chosen(config)["model.encoder.patch"]
    sides = (size, size) if isinstance(size, int) else size
    assert all(side % patch == 0 for side in sides) and patch > 1
    assert config["model"]["init_args"]["encoder"]["init_args"]["image_size"] == size


@pytest.mark.parametrize("side", [20, 32, 50, 64, 96, 130, 224, 1000])
@pytest.mark.parametrize("machine", [LAPTOP, GPU], ids=["laptop", "gpu"])
def test_size_and_patch_chosen_go_together(side, machine):
    choices = chosen(empty(), photos(height=side, width=side + 30), machine)
    size, patch = choices["data.image_size"], choices["model.encoder.patch"]
    height, width = (size, size) if isinstance(size, int) else size
    assert height % patch == 0 and width % patch == 0
    assert height // patch * (width // patch) >= 9, "enough patches to hide three in four"


def test_a_model_by_name_keeps_its_own_sizes():
    choices = chosen(empty(encoder__name="vit_base_patch16_224"))
    assert not {"model.encoder.width", "model.encoder.depth", "model.encoder.heads", "model.encoder.patch"} & choices.keys()
    assert choices["model.objectives.pixels.width"] == 512 and choices["model.objectives.pixels.depth"] == 8


@pytest.mark.parametrize("width", [64, 128, 192, 256, 384, 768, 1024])
def test_a_width_alone_is_completed_to_a_whole_encoder(width):
    choices = chosen(empty(encoder__width=width))
    assert width % choices["model.encoder.heads"] == 0 and choices["model.encoder.depth"] > 0
    decoder_width, decoder_depth, _ = decoder_for(width)
    assert (choices["model.objectives.pixels.width"], choices["model.objectives.pixels.depth"]) == (decoder_width, decoder_depth)
    assert decoder_width % max(1, decoder_width // 32) == 0


# -- length


def test_a_length_given_in_any_unit_is_kept():
    assert "trainer.max_steps" not in chosen(empty(trainer__max_steps=7))
    config = empty(trainer__max_epochs=3)
    assert "trainer.max_steps" not in chosen(config) and config["trainer"]["max_steps"] is None


def test_lightnings_own_minus_one_is_open():
    assert chosen(empty(trainer__max_steps=-1))["trainer.max_steps"] > 0


def test_the_demo_is_short_and_a_slow_machine_gets_fewer_steps():
    assert chosen(empty(), photos(10_000, 64, 64, 3, "scenes"))["trainer.max_steps"] == 400
    slow, fast = (chosen(empty(), photos(50_000), Machine("cpu", 1, 8, False, rate))["trainer.max_steps"] for rate in (5e10, 1e12))
    assert slow < fast


def test_a_run_is_validated_ten_times():
    config = empty(trainer__max_steps=1000, trainer__accumulate_grad_batches=2, trainer__check_val_every_n_epoch=1)
    assert chosen(config)["trainer.val_check_interval"] == 200, "in batches, two of which make a step"
    assert config["trainer"]["check_val_every_n_epoch"] is None
    config = empty(trainer__max_epochs=4, data__batch_size=50)
    assert chosen(config, photos(5000))["trainer.val_check_interval"] == 40


def test_base_lr_falls_with_the_length():
    rates = [chosen(empty(trainer__max_steps=steps))["model.optimizer.base_lr"] for steps in (100, 10_000, 31_623, 100_000, 10**6)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == rates[1] == 1.5e-3 and rates[3] == rates[4] == pytest.approx(1.5e-4)


def test_looking_at_a_trained_run_decides_nothing_about_training():
    choices = chosen(empty(), training=False)
    assert not {"trainer.max_steps", "model.optimizer.base_lr", "trainer.val_check_interval"} & choices.keys()
    assert "trainer.precision" in choices


def test_a_model_of_another_kind_is_left_alone():
    config = empty()
    config["model"] = {"class_path": "somebody.elses.Model", "init_args": {"encoder": {"class_path": VIT, "init_args": {"width": None}}}}
    assert not [key for key in chosen(config) if key.startswith("model")]


def test_a_validation_interval_longer_than_an_epoch_counts_across_epochs():
    config = empty(trainer__val_check_interval=400, trainer__check_val_every_n_epoch=1)
    choose(config, photos(200), LAPTOP)
    assert (config["trainer"]["val_check_interval"], config["trainer"]["check_val_every_n_epoch"]) == (400, None)


def test_epochs_between_validations_are_kept_as_said():
    config = empty(trainer__check_val_every_n_epoch=5)
    choose(config, photos(), LAPTOP)
    assert (config["trainer"]["val_check_interval"], config["trainer"]["check_val_every_n_epoch"]) == (None, 5)


def test_a_run_given_time_gets_the_steps_that_the_time_affords():
    hour, two = (chosen(empty(trainer__max_time=time))["trainer.max_steps"] for time in ("00:01:00:00", "00:02:00:00"))
    assert two == pytest.approx(2 * hour, abs=1)


def test_the_data_wants_the_size_that_an_encoder_is_told():
    config = empty(encoder__image_size=160)
    assert chosen(config)["data.image_size"] == 160


def test_seed_everything_seeds_the_data_too():
    config = empty()
    config["seed_everything"], config["data"]["seed"] = 7, None
    assert chosen(config)["data.seed"] == 7
