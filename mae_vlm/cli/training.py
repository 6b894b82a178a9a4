"""fit, validate, test, predict: the one LightningCLI."""

from __future__ import annotations

import os
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from mae_vlm.cli.console import calm, complain, hide_adverts, say

calm()  # before Lightning is imported

from lightning import LightningModule  # noqa: E402
from lightning.pytorch.cli import LightningCLI  # noqa: E402
from lightning.pytorch.loggers import TensorBoardLogger  # noqa: E402

from mae_vlm.callbacks.bookends import Bookends  # noqa: E402
from mae_vlm.callbacks.checkpoint import DurableCheckpointIO  # noqa: E402
from mae_vlm.callbacks.embeddings import Embeddings  # noqa: E402
from mae_vlm.callbacks.metrics_csv import MetricsCsv  # noqa: E402
from mae_vlm.cli.agreement import agree  # noqa: E402
from mae_vlm.cli.automatic import choose  # noqa: E402
from mae_vlm.cli.callbacks import CONFIGURED, silent  # noqa: E402
from mae_vlm.cli.machine import look  # noqa: E402
from mae_vlm.cli.mistakes import users_mistake  # noqa: E402
from mae_vlm.cli.parser import Parser, flat  # noqa: E402
from mae_vlm.cli.run_folder import check_writable, closing_lines, folder_of, next_version, take  # noqa: E402
from mae_vlm.cli.stored import base_config, find_checkpoint  # noqa: E402
from mae_vlm.convert import native  # noqa: E402
from mae_vlm.data.module import Data  # noqa: E402

hide_adverts()

TRAINER_DEFAULTS = {
    "default_root_dir": "runs",
    "use_distributed_sampler": False,  # data/sampler.py deals the samples to the processes
    "num_sanity_val_steps": 0,  # the run begins with a whole validation
    "enable_model_summary": False,
    "logger": None,
}


def run(verb: str, arguments: list[str]) -> int:
    """Run one training verb; 0 when done, 1 for a mistake of the user found while building the run, 2 on the command line."""
    try:
        Training(verb, arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


class Training(LightningCLI):
    """LightningCLI with automatic choices, one folder per run, and a checkpoint's own config below the explicit one."""

    def __init__(self, verb: str, arguments: list[str]) -> None:
        self.verb = verb
        self.given = arguments
        self.checkpoint: Path | None = None
        self.resumes = False
        super().__init__(
            LightningModule,
            Data,
            subclass_mode_model=True,
            save_config_callback=None,
            auto_configure_optimizers=False,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            args=[verb, *arguments],
        )

    # -- parsing

    def init_parser(self, **kwargs: Any) -> Parser:
        parser = Parser(**kwargs)
        parser.add_argument("-c", "--config", action="config", help="a YAML config; several are merged, the last one wins")
        return parser

    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.add_argument("--name", type=str | None, default=None, help="name of the run's folder; default: the first config's stem")
        parser.add_argument("--out", type=str | None, default=None, help="predict: folder for the features; default: RUN/predictions")
        for name, callback in CONFIGURED.items():
            parser.add_lightning_class_args(callback, name)

    def parse_arguments(self, parser: Any, args: Any) -> None:
        configs = self._configs()
        self.explicit = flat(self.given, configs)
        base: list[str] = []
        if not any("model" in config for config in configs):
            base = ["--config", str(files("mae_vlm") / "default.yaml")]
        word = self.explicit.get("ckpt_path")
        if word and not _asks_for_help(self.given):
            stored = self._stored(str(word))
            base = base if stored is None else ["--config", yaml.safe_dump(stored)]
        elif self.verb != "fit" and not _asks_for_help(self.given):
            self._refuse(f"{self.verb} needs a trained run: --ckpt_path RUN (a folder, a .ckpt file, or last)")
        self.config = parser.parse_args([self.verb, *base, *self.given])

    def _configs(self) -> list[dict[str, Any]]:
        """The configs named on the command line, as plain dictionaries; what is wrong with them is for the parser to tell."""
        paths = [following for here, following in zip(self.given, self.given[1:], strict=False) if here in ("-c", "--config")]
        paths += [here.partition("=")[2] for here in self.given if here.startswith("--config=")]
        self.stem = Path(paths[0]).stem if paths else "default"
        return [self._config(Path(path)) for path in paths if Path(path).is_file()]

    def _config(self, path: Path) -> dict[str, Any]:
        try:
            config = yaml.safe_load(path.read_text()) or {}
        except yaml.YAMLError as problem:
            self._refuse(f"--config {path} is not valid YAML: {' '.join(str(problem).split())}", code=2)
        if not isinstance(config, dict):
            self._refuse(
                f"--config {path} holds a {type(config).__name__}, not options by name; --print_config shows how one looks", code=2
            )
        return dict(config)

    def _stored(self, word: str) -> dict[str, Any] | None:
        try:
            root, name = str(self.explicit.get("trainer.default_root_dir", "runs")), str(self.explicit.get("name", self.stem))
            found = agree("checkpoint", lambda: {"path": str(find_checkpoint(word, Path(root), name) or "")})["path"]
            self.checkpoint = Path(found) if found else None
            if self.checkpoint is None:
                say(f"--ckpt_path auto: no checkpoint under {Path(root) / name}; starting afresh")
                return None
            self.resumes = word in ("last", "auto") and self.verb == "fit"
            return base_config(native.read(self.checkpoint)[0], self.verb, self.explicit)
        except ValueError as problem:
            self._refuse(str(problem))
            raise AssertionError from problem

    def _parse_ckpt_path(self) -> None:
        """Lightning would let the checkpoint's options win over the command line here; ours came in below it, while parsing."""

    def _refuse(self, message: str, code: int = 1) -> None:
        complain(message)
        sys.exit(code)

    # -- building

    def before_instantiate_classes(self) -> None:
        parser = self._parser(self.verb)
        config = self.config[self.verb].as_dict()
        config.pop("config", None)
        if self.verb == "predict":  # every picture is wanted, none kept in memory
            config["return_predictions"] = False
            config["data"]["val_fraction"] = config["data"]["val_fraction"] or 0.0
        try:
            self.sources = Data(**config["data"])
            decided = agree("run", lambda: self._decide(config))
        except Exception as problem:
            self._tell(problem)
        self.folder = Path(decided["folder"])
        config = decided["config"]
        for line in decided["lines"]:
            say(line)
        config["ckpt_path"] = None if self.checkpoint is None else str(self.checkpoint)
        self.config[self.verb] = parser.parse_object(config)
        shown = {key: value for key, value in config.items() if key != "ckpt_path"}
        self.resolved = parser.dump(parser.parse_object(shown), skip_none=False)

    def _decide(self, config: dict[str, Any]) -> dict[str, Any]:
        """Automatic choices and the run's folder: made once, by the first process. Everything returned is plain data."""
        summary = self.sources.inspect()
        choices = choose(config, summary, look(str(config["trainer"]["accelerator"])), training=self.verb == "fit")
        config["name"] = config["name"] or self.stem
        root = Path(config["trainer"]["default_root_dir"]) / config["name"]
        if self.verb == "fit":
            check_writable(root)
        goes_on = self.checkpoint is not None and (self.resumes or self.verb != "fit")
        folder = folder_of(self.checkpoint) if self.checkpoint is not None and goes_on else next_version(root)
        widest = max((len(choice.key) for choice in choices), default=0)
        lines = [summary.describe()] + [f"  {choice.key:<{widest}} = {choice.value}   ({choice.reason})" for choice in choices]
        if choices:
            lines.insert(1, "chosen automatically (set any of them to overrule):")
        return {"config": _plain(config), "folder": str(folder), "lines": lines}

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
            self.datamodule.adopt(self.sources)
            self.datamodule.trainer = self.trainer
            self.datamodule.setup("fit" if self.verb == "fit" else "validate")
            self._check_pictures_fit()
            if self.checkpoint is not None:
                self._check_fits(self.checkpoint)
        except Exception as problem:
            self._tell(problem)

    def _check_pictures_fit(self) -> None:
        """The encoder's size against the pictures', where the model is one of ours: told before a run begins."""
        towers = getattr(self.model, "towers", None)
        if towers is None:
            return
        space, (height, width) = towers.image.space, self.datamodule.size
        channels = self.datamodule.channels or self.datamodule.inspect().channels
        if (space.channels, space.height, space.width) != (channels, height, width):
            raise ValueError(
                f"the encoder takes {space.channels} x {space.height} x {space.width} (channels, height, width), the data gives "
                f"{channels} x {height} x {width}; set data.image_size and data.channels, or leave the encoder's open"
            )

    def _check_fits(self, checkpoint: Path) -> None:
        """Sizes said on the command line win over a checkpoint's, and then its weights may have no place: told before a run begins."""
        stored, own = native.read(checkpoint)[1], self.model.state_dict()
        for name in [*own, *stored]:
            there, here = (list(state[name].shape) if name in state else "none" for state in (stored, own))
            if there != here:
                raise ValueError(f"{checkpoint} does not fit the model: {name} is {there} there and {here} here; keep its sizes")
        if self.verb == "fit" and (changed := self.datamodule.compare(native.data_state(checkpoint))):
            say(f"the collection has changed since the checkpoint: {changed}")

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        if self.verb == "fit":  # the other verbs leave the run's pictures as they are
            for key in CONFIGURED:
                self._get(self.config_init, key).folder = self.folder
        self._get(self.config_init, "checkpoint").config = self.resolved
        self.bookends = Bookends()
        config = self._get(self.config_init, "trainer")
        if self.verb != "fit":
            return super().instantiate_trainer(logger=False, **kwargs)
        if config["logger"] is None or config["logger"] is True:
            place: dict[str, Any] = {
                "save_dir": str(self.folder.parent.parent),
                "name": self.folder.parent.name,
                "version": self.folder.name,
            }
            kwargs["logger"] = [TensorBoardLogger(**place, default_hp_metric=False), MetricsCsv(**place)]
        plugins = config.get("plugins") or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), DurableCheckpointIO()]
        return super().instantiate_trainer(**kwargs)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Any:
        ours = silent(self.bookends, self.folder, bar=config.get("enable_progress_bar") is not False)
        if self.verb == "predict":
            out = self.config[self.verb].out
            ours.append(Embeddings(Path(out) if out else self.folder / "predictions"))
        return super()._instantiate_trainer(config, [*callbacks, *ours])

    def _tell(self, problem: Exception) -> None:
        """A mistake of the user ends the command with one line; anything else is ours and keeps its traceback."""
        mistake = users_mistake(problem)
        if mistake is not None and not os.environ.get("MAE_VLM_TRACEBACK"):
            self._refuse(str(mistake))
        raise problem

    # -- running

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except Exception as problem:
            self._tell(problem)

    def before_fit(self) -> None:
        if not getattr(self.trainer, "fast_dev_run", False) and self.trainer.is_global_zero and not self.resumes:
            try:
                take(self.folder, self.resolved)
            except ValueError as problem:
                self._tell(problem)
        say(f"run folder: {self.folder}")
        if self.checkpoint is not None:
            say(f"resumed {self.checkpoint} at step {native.step_of(self.checkpoint)}")

    def after_fit(self) -> None:
        if self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            newest = self._get(self.config_init, "pictures").newest
            say("\n".join(closing_lines(self.folder, self.bookends.start, self.bookends.end, newest)))

    def after_predict(self) -> None:
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Embeddings):
                say(f"features of {callback.count:,} pictures: {callback.out}")


def _asks_for_help(arguments: list[str]) -> bool:
    return any(word in ("-h", "--help") or word.startswith(("--print_config", "--model.help", "--data.help")) for word in arguments)


def _plain(value: Any) -> Any:
    """Tuples to lists and paths to text, all the way down, so that it survives JSON."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
