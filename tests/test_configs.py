"""Every config is a test: it parses through the real command line, has the sizes it claims, and trains."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
import yaml
from tiny_runs import MACHINE, REPOSITORY, content, in_process, rows

from mae_vlm.cli.automatic import choose
from mae_vlm.cli.machine import Machine
from mae_vlm.data.summary import Summary

CONFIGS = sorted((REPOSITORY / "configs").rglob("*.yaml"))
PRETRAIN = [path for path in CONFIGS if path.parent.name == "pretrain"]
IMAGENET = 1_281_167  # training pictures of ImageNet-1k
GPUS = Machine("cuda", 8, 96, True, 1e14)
PIXELS = "mae_vlm.objectives.pixels.Pixels"


def names(paths):
    return pytest.mark.parametrize("path", paths, ids=[str(path.relative_to(REPOSITORY / "configs")) for path in paths])


def header(path: Path) -> str:
    lines = path.read_text().splitlines()
    return "\n".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


@pytest.fixture(scope="module")
def known() -> dict[tuple[str, ...], str]:
    """What was printed before, by command line: several tests look at one config."""
    return {}


@pytest.fixture
def printed(capsys, monkeypatch, known):
    """The whole config that a command line amounts to, as --print_config tells it."""
    monkeypatch.chdir(REPOSITORY)

    def resolve(*words):
        told = tuple(map(str, words))
        if told not in known:
            assert in_process("fit", *words, "--print_config") == 0, capsys.readouterr().err
            known[told] = capsys.readouterr().out
        return yaml.safe_load(known[told])

    return resolve


def parameters(config: dict) -> dict[str, int]:
    """Number of weights of the model a config builds, frozen position tables included, by top-level part. Nothing is allocated."""
    from lightning import LightningModule

    from mae_vlm.cli.parser import Parser

    size = config["data"]["image_size"]
    choose(config, Summary(None, "folder", IMAGENET, 50_000, 0, 400, 500, 3, None, ""), GPUS)
    assert config["data"]["image_size"] == size
    parser = Parser()
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    with torch.device("meta"):
        model = parser.instantiate_classes(parser.parse_object({"model": config["model"]})).model
    counts = {"all": sum(weight.numel() for weight in model.parameters())}
    return counts | {"encoder": sum(weight.numel() for weight in model.towers.parameters())}


def timm_parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(weight.numel() for weight in timm.create_model(name, num_classes=0).parameters())


@names(CONFIGS)
def test_config_is_short_and_says_how_to_run_it(path, printed):
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    commands = re.findall(r"python -m mae_vlm (\w+ .*)", header(path))
    assert commands, "the header holds no command"
    for command in commands:
        verb, *words = shlex.split(command, comments=True)
        named = [following for word, following in itertools.pairwise(words) if word == "--config"]
        assert path in [REPOSITORY / config for config in named]
        assert all((REPOSITORY / config).is_file() for config in named)
        if verb == "fit":
            printed(*words)


@names(PRETRAIN)
def test_header_states_hardware_steps_and_result(path):
    text = header(path).lower()
    assert re.search(r"\d[\d,]* (optimizer )?steps", text)
    assert re.search(r"gpu|cpu|core", text)
    assert re.search(r"published figure, not run by us|loss|%", text)


@names([path for path in PRETRAIN if path.name.startswith(("mae_", "pixio_"))])
def test_published_recipe_states_its_true_number_of_steps(path, printed):
    config = printed("--config", path)
    trainer, data = config["trainer"], config["data"]
    epochs = trainer["max_epochs"]
    steps = trainer["max_steps"] if epochs is None else epochs * (IMAGENET // data["batch_size"])
    warmup = config["model"]["init_args"]["optimizer"]["init_args"]["warmup"]
    assert f"{steps:,} optimizer steps" in header(path)
    assert f"{round(warmup * steps):,} of them warm-up" in header(path)
    assert "published figure, not run by us" in header(path)
    assert trainer["precision"] is None and trainer["devices"] == "auto"


@pytest.mark.parametrize(
    "size, name, whole",
    [  # whole: of facebookresearch/mae, models_mae.py, with its frozen position tables
        ("base", "vit_base_patch16_224", 111_907_840),
        ("large", "vit_large_patch16_224", 329_541_888),
        ("huge", "vit_huge_patch14_224", 657_074_508),
    ],
)
def test_mae_recipe_has_the_papers_parameters(size, name, whole, printed):
    counts = parameters(printed("--config", f"configs/pretrain/mae_{size}_800.yaml"))
    assert counts == {"all": whole, "encoder": timm_parameters(name)}


@pytest.mark.parametrize("size", ["base", "large", "huge"])
def test_the_long_mae_recipe_differs_in_length_alone(size):
    short, long = (yaml.safe_load((REPOSITORY / f"configs/pretrain/mae_{size}_{epochs}.yaml").read_text()) for epochs in (800, 1600))
    assert (short["trainer"].pop("max_epochs"), long["trainer"].pop("max_epochs")) == (800, 1600)
    warmups = [config["model"]["init_args"]["optimizer"]["init_args"].pop("warmup") for config in (short, long)]
    assert warmups == [40 / 800, 40 / 1600]
    assert short == long


@pytest.mark.parametrize("size, width, depth", [("base", 768, 12), ("huge", 1280, 32)])
def test_pixio_recipe_has_its_parameters(size, width, depth, printed):
    def blocks(count, width):
        return count * (12 * width**2 + 13 * width)  # qkv 3 D^2 + 3 D, projection D^2 + D, MLP 8 D^2 + 5 D, two norms 4 D

    tokens, pixels, decoder = 256 + 8, 16 * 16 * 3, 512
    encoder = (pixels + 1) * width + 8 * width + tokens * width + blocks(depth, width) + 2 * width
    rest = (width + 1) * decoder + decoder + tokens * decoder + blocks(32, decoder) + 2 * decoder + (decoder + 1) * pixels
    counts = parameters(printed("--config", f"configs/pretrain/pixio_{size}.yaml"))
    assert counts == {"all": encoder + rest, "encoder": encoder}


def test_pixio_recipe_hides_whole_cells(printed):
    config = printed("--config", "configs/pretrain/pixio_huge.yaml")
    masking, data = config["model"]["init_args"]["masking"], config["data"]
    assert masking == {"class_path": "mae_vlm.tokens.masking.CellMask", "init_args": {"ratio": 0.75, "cell": 4}}
    assert data["image_size"] == 256 and data["flip"] == 0.0
    assert config["model"]["init_args"]["encoder"]["init_args"]["class_tokens"] == 8


@names(PRETRAIN)
def test_config_takes_two_steps_at_a_tiny_size(path, printed, tmp_path):
    stated = yaml.safe_load(path.read_text())
    words = ["--config", path, *MACHINE, "--data.path", "null", "--data.scenes", "16", "--data.val_scenes", "4", "--data.batch_size", "8"]
    sizes = ["--model.encoder.name", "null", "--model.encoder.width", "32", "--model.encoder.depth", "1", "--model.encoder.heads", "2"]
    sizes += ["--model.encoder.patch", "8", "--data.image_size", "64"]  # 8 x 8 patches, so that cells of 4 x 4 fit
    for name, objective in stated["model"]["init_args"].get("objectives", {}).items():
        if objective["class_path"] == PIXELS:
            sizes += [f"--model.objectives.{name}.width", "32", f"--model.objectives.{name}.depth", "1"]
            sizes += [f"--model.objectives.{name}.heads", "2"]
    length = ["--trainer.max_epochs", "null", "--trainer.max_steps", "2", "--trainer.default_root_dir", tmp_path, "--name", "run"]
    assert in_process("fit", *words, *sizes, *length) == 0
    run = tmp_path / "run" / "version_0"
    assert content(run)["global_step"] == 2
    losses = [float(row["val/loss"]) for row in rows(run) if row["val/loss"]]
    assert len(losses) >= 2 and all(0 < loss < 10 for loss in losses)
    assert losses[0] != losses[-1], "nothing was learned, not even a little"


def test_trainer_pieces_go_on_top_of_a_recipe(printed):
    one_node = printed("--config", "configs/pretrain/mae_base_800.yaml", "--config", "configs/trainer/one_node.yaml")
    strategy = one_node["trainer"]["strategy"]
    assert strategy["class_path"] == "lightning.pytorch.strategies.DDPStrategy"
    assert strategy["init_args"]["gradient_as_bucket_view"]
    assert not strategy["init_args"].get("static_graph"), "torch's DDP cannot accumulate with it"
    assert one_node["trainer"]["devices"] == "auto" and one_node["trainer"]["max_epochs"] == 800
    two = printed("--config", "configs/pretrain/cifar10.yaml", "--config", "configs/trainer/cpu_two_processes.yaml")["trainer"]
    assert (two["accelerator"], two["devices"]) == ("cpu", 2)
    assert two["strategy"]["init_args"]["process_group_backend"] == "gloo"
