"""fit, validate, test, predict: the one LightningCLI."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from mae_vlm.cli.console import calm, complain, hide_adverts, say

calm()  # before Lightning is imported

from lightning import LightningModule  # noqa: E402
from lightning.pytorch.cli import LightningCLI  # noqa: E402

from mae_vlm.callbacks.bookends import Bookends  # noqa: E402
from mae_vlm.callbacks.checkpoint import DurableCheckpointIO  # noqa: E402
from mae_vlm.callbacks.curves import Curves  # noqa: E402
from mae_vlm.callbacks.embeddings import Embeddings  # noqa: E402
from mae_vlm.callbacks.metrics_csv import MetricsCsv  # noqa: E402
from mae_vlm.callbacks.predictions import Predictions  # noqa: E402
from mae_vlm.callbacks.report import Report  # noqa: E402
from mae_vlm.cli import finetuning, secrets, wording  # noqa: E402
from mae_vlm.cli.agreement import agree  # noqa: E402
from mae_vlm.cli.automatic import choose  # noqa: E402
from mae_vlm.cli.callbacks import CONFIGURED, silent  # noqa: E402
from mae_vlm.cli.compatibility import check_batchnorm, check_pictures, check_weights  # noqa: E402
from mae_vlm.cli.machine import look  # noqa: E402
from mae_vlm.cli.mistakes import users_mistake  # noqa: E402
from mae_vlm.cli.parser import Parser, flat  # noqa: E402
from mae_vlm.cli.plain_values import plain, short  # noqa: E402
from mae_vlm.cli.run_folder import check_writable, closing_lines, folder_of, next_version, take  # noqa: E402
from mae_vlm.cli.stored import base_config, find_checkpoint  # noqa: E402
from mae_vlm.convert import native, trust  # noqa: E402
from mae_vlm.data.module import Data  # noqa: E402
from mae_vlm.learners.finetune import Finetuner  # noqa: E402
from mae_vlm.learners.pretrain import Pretrainer  # noqa: E402

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

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The verb asked for alone: four parsers would take four times as long, and ``cli/__init__.py`` lists the verbs."""
        return {self.verb: super().subcommands()[self.verb]}

    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.add_argument("--name", type=str | None, default=None, help="name of the run's folder; default: the first config's stem")
        parser.add_argument("--out", type=str | None, default=None, help="predict: folder for what it finds; default: RUN/predictions")
        parser.add_argument("--draw", type=bool, default=False, help="predict: also write the pictures with a head's answer on them")
        for name, callback in CONFIGURED.items():
            parser.add_lightning_class_args(callback, name)

    def parse_arguments(self, parser: Any, args: Any) -> None:
        configs = self._configs()
        if secret := secrets.found(self.given, configs, os.environ):
            self._refuse(secret, code=2)
        self.explicit = flat(self.given, configs)
        base: list[str] = []
        imports: AbstractContextManager[None] = nullcontext()
        if not any("model" in config for config in configs):
            base = ["--config", str(files("mae_vlm") / "default.yaml")]
        word = self.explicit.get("ckpt_path")
        if word and not _asks_for_help(self.given):
            stored = self._stored(str(word))
            if stored is not None:
                base, imports = ["--config", yaml.safe_dump(stored, sort_keys=False)], trust.nothing_else(self.explicit)
        elif self.verb != "fit" and not _asks_for_help(self.given):
            self._refuse(f"{self.verb} needs a trained run: --ckpt_path RUN (a folder, a .ckpt file, or last)")
        with imports:
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
            stored = base_config(native.read(self.checkpoint)[0], self.verb, self.explicit)
            return trust.check(stored, self.checkpoint, self.explicit)
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
            config = decided["config"]
            wording.present(config, self.sources.train_source)
        except Exception as problem:
            self._tell(problem)
        self.folder, self.choices = Path(decided["folder"]), decided["choices"]
        for line in decided["lines"]:
            say(line)
        config["ckpt_path"] = None if self.checkpoint is None else str(self.checkpoint)
        config["weights_only"] = True  # never a pickle, which could run code
        self.config[self.verb] = parser.parse_object(config)
        shown = self.config[self.verb].clone()
        shown["ckpt_path"] = None
        self.resolved = parser.dump(shown, skip_unset=False, skip_validation=True)  # it was parsed just now: checking takes as long again
        self.config_dump = yaml.safe_load(self.resolved)  # Lightning would dump and read it once more, for save_hyperparameters

    def _decide(self, config: dict[str, Any]) -> dict[str, Any]:
        """Automatic choices and the run's folder: made once, by the first process. Everything returned is plain data."""
        summary = self.sources.inspect()
        start = None if self.checkpoint is not None else finetuning.start(config, self.explicit)
        machine, said = look(str(config["trainer"]["accelerator"])), frozenset(self.explicit)
        choices = choose(config, summary, machine, self.verb == "fit", start, self.sources.train_source, said)
        config["name"] = config["name"] or self.stem
        root = Path(config["trainer"]["default_root_dir"]) / config["name"]
        if self.verb == "fit":
            check_writable(root)
        goes_on = self.checkpoint is not None and (self.resumes or self.verb != "fit")
        folder = folder_of(self.checkpoint) if self.checkpoint is not None and goes_on else next_version(root)
        widest = max((len(choice.key) for choice in choices), default=0)
        lines = [summary.describe(), *(f"  {choice.key:<{widest}} = {short(choice.value)}   ({choice.reason})" for choice in choices)]
        if choices:
            lines.insert(1, "chosen automatically (set any of them to overrule):")
        told = [{"key": choice.key, "value": plain(choice.value), "reason": choice.reason} for choice in choices]
        return {"config": plain(config), "folder": str(folder), "lines": lines, "choices": told}

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
            self.datamodule.adopt(self.sources)
            self.datamodule.trainer = self.trainer
            self.datamodule.wants = getattr(self.model, "wants", frozenset())
            self.datamodule.second = "second" in getattr(self.model, "views", ())
            self.datamodule.setup(self.verb if self.verb in ("fit", "predict") else "validate")
            check_pictures(self.model, self.datamodule)
            if self._get(self.config_init, "trainer").get("sync_batchnorm"):
                check_batchnorm(self.model, self.trainer.world_size, self.trainer.strategy.root_device.type)
            if isinstance(self.model, Pretrainer | Finetuner):
                self.model.check_accumulation(self.trainer.accumulate_grad_batches)
            if self.checkpoint is not None:
                check_weights(self.model, self.checkpoint)
                if self.verb == "fit" and (changed := self.datamodule.compare(native.data_state(self.checkpoint))):
                    say(f"the collection has changed since the checkpoint: {changed}")
            finetuning.begin(self.model, self.datamodule.inspect(), self.verb, self.checkpoint is None)
        except Exception as problem:
            self._tell(problem)

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        if self.verb == "fit":  # the other verbs leave the run's pictures as they are
            for key in CONFIGURED:
                self._get(self.config_init, key).folder = self.folder
        self._get(self.config_init, "checkpoint").config = self.resolved
        self.bookends = Bookends()
        config = self._get(self.config_init, "trainer")
        plugins = config.get("plugins") or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), DurableCheckpointIO()]
        if self.verb != "fit":
            return super().instantiate_trainer(logger=False, **kwargs)
        if config["logger"] is None or config["logger"] is True:
            place: dict[str, Any] = {
                "save_dir": str(self.folder.parent.parent),
                "name": self.folder.parent.name,
                "version": self.folder.name,
            }
            kwargs["logger"] = [Curves(**place, default_hp_metric=False), MetricsCsv(**place)]
        return super().instantiate_trainer(**kwargs)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Any:
        ours = silent(self.bookends, self.folder, config.get("enable_progress_bar") is not False, self.choices)
        if self.verb == "predict":
            out = self.config[self.verb].out
            place = Path(out) if out else self.folder / "predictions"
            writer = finetuning.writer(self.model, place, f"{self.checkpoint} of {self.config[self.verb].data.path}")
            if isinstance(writer, Predictions):
                writer.draw = self.config[self.verb].draw
            ours.append(writer)
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
            except (ValueError, OSError) as problem:
                self._tell(problem)
        say(f"run folder: {self.folder}")
        if self.checkpoint is not None:
            say(f"resumed {self.checkpoint} at step {native.step_of(self.checkpoint)}")

    def after_fit(self) -> None:
        if self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            newest, probes = self._get(self.config_init, "pictures").newest, self._get(self.config_init, "probes").lines()
            say("\n".join(closing_lines(self.folder, self.bookends.start, self.bookends.end, newest, probes)))
            callbacks = self.trainer.callbacks  # type: ignore[attr-defined]
            say("\n".join(line for one in callbacks if isinstance(one, Report) for line in one.lines))

    def after_predict(self) -> None:
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Embeddings):
                say(f"features of {callback.count:,} pictures: {callback.out}")
            elif isinstance(callback, Predictions):
                say(f"answers to {callback.count:,} pictures: {', '.join(map(str, callback.files))}")


def _asks_for_help(arguments: list[str]) -> bool:
    return any(word in ("-h", "--help") or word.startswith(("--print_config", "--model.help", "--data.help")) for word in arguments)
