"""Promises of tools.recipe_steps."""

from __future__ import annotations

import pytest
import yaml
from tiny_runs import in_process

from tools.recipe_steps import command, losses, published

NAMES = {f"{task}_{size}" for task in ("ade20k", "coco") for size in ("small", "base", "large")}


def test_it_steps_every_published_recipe():
    found = {path.stem for path in published()}
    assert found >= NAMES and not any(name.startswith("quick") for name in found)


@pytest.mark.parametrize("name", ["coco_base", "ade20k_large"])
def test_a_recipe_keeps_its_sizes_and_takes_two_steps_on_scenes(name, tmp_path, capsys):
    (recipe,) = [path for path in published() if path.stem == name]
    assert in_process(*command(recipe, 3, tmp_path), "--print_config") == 0
    ours, theirs = yaml.safe_load(capsys.readouterr().out), yaml.safe_load(recipe.read_text())
    assert ours["trainer"]["max_steps"] == 2 and ours["data"]["batch_size"] == 3 and ours["data"]["path"] is None
    assert ours["data"]["image_size"] == theirs["data"]["image_size"]
    options = theirs["model"]["init_args"]["encoder"]["init_args"]
    assert ours["model"]["init_args"]["encoder"]["init_args"].items() >= options.items()


def test_losses_are_those_of_the_steps(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.csv").write_text("step,train/loss,val/loss\n0,,3.0\n0,2.5,\n1,2.25,\n")
    assert losses(tmp_path) == [2.5, 2.25]
