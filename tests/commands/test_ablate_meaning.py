"""Which settings make two losses, or two scores, incomparable."""

from __future__ import annotations

from copy import deepcopy

import pytest

from mae_vlm.ablation.meaning import differing, loss_reasons, score_reasons

CONFIG = {
    "seed_everything": 0,
    "trainer": {"max_steps": 10, "default_root_dir": "here", "limit_val_batches": None},
    "data": {
        "path": "photos",
        "image_size": 32,
        "batch_size": 16,
        "mean": [0.5],
        "std": [0.2],
        "seed": 0,
        "flip": 0.5,
        "val_fraction": 0.1,
    },
    "probes": {"pictures": 2000},
    "model": {
        "class_path": "mae_vlm.learners.pretrain.Pretrainer",
        "init_args": {
            "encoder": {"class_path": "mae_vlm.encoders.vit.Vit", "init_args": {"width": 32, "patch": 8, "name": None, "mean": [0.5]}},
            "masking": {"class_path": "mae_vlm.tokens.masking.RandomMask", "init_args": {"ratio": 0.75}},
            "objectives": {
                "pixels": {"class_path": "mae_vlm.objectives.pixels.Pixels", "init_args": {"width": 32, "normalise": True, "weight": 1.0}}
            },
            "optimizer": {"class_path": "mae_vlm.learners.optim.AdamW", "init_args": {"base_lr": 1e-3}},
        },
    },
}
MODEL = "model.init_args"
PIXELS = f"{MODEL}.objectives.pixels"


def changed(**values):
    config = deepcopy(CONFIG)
    for key, value in values.items():
        place = config
        *path, name = key.split(".")
        for step in path:
            place = place[step]
        place[name] = value
    return config


@pytest.mark.parametrize(
    "key, value, why",
    [
        (f"{MODEL}.masking.init_args.ratio", 0.6, "another mask"),
        (f"{MODEL}.masking.class_path", "mae_vlm.tokens.masking.BlockMask", "another mask"),
        (f"{MODEL}.encoder.init_args.patch", 4, "another target"),
        (f"{MODEL}.encoder.init_args.mean", [0.4], "scaled otherwise"),
        ("data.mean", [0.4], "scaled otherwise"),
        ("data.std", [0.3], "scaled otherwise"),
        ("data.image_size", 64, "other pixels"),
        (f"{PIXELS}.init_args.normalise", False, "may change its target"),
        (f"{PIXELS}.init_args.weight", 0.5, "weight scales the loss"),
        (f"{PIXELS}.class_path", "mine.Pixels", "another objective"),
        (f"{MODEL}.objectives.second", {"class_path": "mine.Other"}, "sum of other terms"),
        (f"{MODEL}.encoder.init_args.name", "vit_small_patch16_224", "another patch"),
        ("data.path", "others", "held-out pictures"),
        ("data.val_fraction", 0.2, "held-out pictures"),
        ("trainer.limit_val_batches", 2, "another part"),
    ],
)
def test_the_loss_means_another_thing(key, value, why):
    (reason,) = loss_reasons([CONFIG, changed(**{key: value}), CONFIG])
    assert why in reason


@pytest.mark.parametrize(
    "key, value",
    [
        (f"{MODEL}.encoder.init_args.width", 64),
        (f"{PIXELS}.init_args.width", 64),
        (f"{MODEL}.optimizer.init_args.base_lr", 2e-3),
        ("data.flip", 0.0),
        ("data.batch_size", 32),  # the pixels of a picture are told from that picture alone
        ("trainer.max_steps", 20),
        ("seed_everything", 3),
        ("data.seed", 3),
        ("trainer.default_root_dir", "there"),
    ],
)
def test_the_loss_means_the_same(key, value):
    assert loss_reasons([CONFIG, changed(**{key: value})]) == []
    assert score_reasons([CONFIG, changed(**{key: value})]) == []


def test_the_batch_matters_to_an_objective_that_compares_its_pictures():
    configs = [
        changed(**{f"{MODEL}.objectives": {"contrast": {"class_path": "mine.Contrast"}}, "data.batch_size": size}) for size in (16, 32)
    ]
    (reason,) = loss_reasons(configs)
    assert reason.startswith("data.batch_size: contrast may compare")


@pytest.mark.parametrize("key, value", [("data.path", "others"), ("data.val_fraction", 0.2), ("probes.pictures", 100)])
def test_scores_of_other_pictures_or_another_probe_are_not_compared(key, value):
    assert len(score_reasons([CONFIG, changed(**{key: value})])) == 1


def test_a_mask_changes_the_loss_and_not_the_score():
    assert score_reasons([CONFIG, changed(**{f"{MODEL}.masking.init_args.ratio": 0.6})]) == []


def test_a_seed_of_the_data_counts_where_it_was_asked_for():
    other = changed(**{"data.seed": 3})
    assert differing([CONFIG, other]) == [] and differing([CONFIG, other], ("data.seed",)) == ["data.seed"]
    assert score_reasons([CONFIG, other], ("data.seed",))
