"""Who wins: an explicit flag over a config, that over a checkpoint, that over an automatic choice."""

from __future__ import annotations

import pytest
import yaml
from tiny_runs import TINY, in_process

SHORT = ["--trainer.max_steps", "2"]


@pytest.fixture
def fit(tmp_path):
    """Runs ``fit`` at two steps; gives the resolved config of the run it leaves."""

    def run(*words, name="default", version=0):
        assert in_process("fit", *TINY, *words, "--trainer.default_root_dir", tmp_path) == 0
        return yaml.safe_load((tmp_path / name / f"version_{version}" / "config.yaml").read_text())

    return run


def config_file(path, **sections):
    path.write_text(yaml.safe_dump(sections))
    return path


def test_versions_count_up_and_a_name_names_the_folder(fit, tmp_path):
    fit(*SHORT, version=0)
    fit(*SHORT, version=1)
    assert fit(*SHORT, "--name", "mine", name="mine")["name"] == "mine"
    for run in ("default/version_0", "default/version_1", "mine/version_0"):
        inside = {path.name.split(".")[0] for path in (tmp_path / run).iterdir()}
        assert inside >= {"config", "metrics", "events", "checkpoints", "pictures"}, "one version number for everything"


def test_the_last_config_wins_and_the_first_names_the_run(fit, tmp_path):
    first = config_file(tmp_path / "first.yaml", trainer={"max_steps": 2}, data={"flip": 0.1, "seed": 7})
    second = config_file(tmp_path / "second.yaml", data={"flip": 0.2})
    data = fit("--config", first, "--config", second, name="first")["data"]
    assert (data["flip"], data["seed"]) == (0.2, 7)


def test_flag_beats_config_beats_checkpoint_beats_automatic(fit, tmp_path, trained):
    file = config_file(tmp_path / "mine.yaml", data={"crop_scale": [0.4, 1.0], "flip": 0.1}, pictures={"count": 1})
    words = ["--config", file, "--ckpt_path", trained.folder, "--data.flip", "0.3", "--trainer.max_steps", "25"]
    config = fit(*words, name="mine")
    assert config["data"]["flip"] == 0.3, "the flag's, not the config's"
    assert config["data"]["crop_scale"] == [0.4, 1.0], "the config's, not the checkpoint's"
    assert config["model"]["init_args"]["objectives"]["pixels"]["init_args"]["depth"] == 1
    assert config["model"]["init_args"]["optimizer"]["init_args"]["base_lr"] == 1.5e-3


def test_checkpoint_beats_automatic(tmp_path, trained):
    """Nothing about the model is said: the automatic sizes would be others and the weights would not fit."""
    words = ["--ckpt_path", trained.folder, "--trainer.max_steps", "25", "--data.num_workers", "0", "--trainer.accelerator", "cpu"]
    assert in_process("fit", *words, "--trainer.default_root_dir", tmp_path) == 0
    config = yaml.safe_load((tmp_path / "default" / "version_0" / "config.yaml").read_text())
    encoder = config["model"]["init_args"]["encoder"]["init_args"]
    assert (encoder["width"], encoder["depth"], encoder["patch"]) == (32, 2, 8)
    assert (config["data"]["batch_size"], config["data"]["scenes"], config["trainer"]["precision"]) == (16, 64, "32-true")


def test_explicit_beats_automatic(fit):
    config = fit(*SHORT, "--model.optimizer.base_lr", "0.0007", "--trainer.log_every_n_steps", "1")
    assert config["model"]["init_args"]["optimizer"]["init_args"]["base_lr"] == 0.0007
    assert config["trainer"]["log_every_n_steps"] == 1


def test_an_objectives_option_is_one_flag(fit):
    objective = fit(*SHORT, "--model.objectives.pixels.weight", "0.5")["model"]["init_args"]["objectives"]["pixels"]
    assert objective["init_args"]["weight"] == 0.5


def test_a_nested_option_can_be_set_to_null(tmp_path, capsys):
    file = config_file(tmp_path / "named.yaml", model=yaml.safe_load(capsys_default(capsys))["model"])
    words = ["--config", file, "--model.encoder.name", "null", "--model.encoder.width", "64"]
    assert in_process("fit", *words, "--print_config") == 0
    encoder = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["encoder"]["init_args"]
    assert encoder["name"] is None and encoder["width"] == 64


def capsys_default(capsys):
    assert in_process("fit", "--model.encoder.name", "vit_tiny_patch16_224", "--print_config") == 0
    return capsys.readouterr().out


def test_print_config_shows_everything_and_runs_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert in_process("fit", "--data.path", "nowhere", "--print_config") == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["data"]["path"] == "nowhere" and config["data"]["crop_scale"] == [0.2, 1.0]
    assert config["model"]["class_path"] == "mae_vlm.learners.pretrain.Pretrainer"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_gradients_are_clipped(precision, fit, tmp_path):
    """A tiny limit all but stops a run that has no AdamW to undo it: here only that the limit is met, fused optimizer or not."""
    from tiny_runs import content, curve

    limits = ["--trainer.gradient_clip_val", "0.1", "--trainer.log_every_n_steps", "1", "--trainer.precision", precision]
    config = fit(*limits, "--trainer.max_steps", "4")
    assert config["trainer"]["gradient_clip_val"] == 0.1 and config["trainer"]["precision"] == precision
    run = tmp_path / "default" / "version_0"
    assert min(curve(run, "optimizer/grad_norm").values()) > 0.1, "the norm is logged before clipping"
    first = content(run)["optimizer_states"][0]["state"]
    assert all(moment["exp_avg"].isfinite().all() for moment in first.values())
    norm = sum(float(moment["exp_avg"].square().sum()) for moment in first.values()) ** 0.5
    assert norm <= 0.1, "a mean of gradients that are at most 0.1 long"
