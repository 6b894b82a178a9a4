"""Whether the features get better while the run goes on: probes of a few held-out pictures, within a share of the run's time."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mae_vlm.callbacks.held_out import HeldOut, Scores, crosswise, placed, why_unlabelled
from mae_vlm.callbacks.host_group import first_says
from mae_vlm.callbacks.random_state import own_state, restore
from mae_vlm.callbacks.throughput import Throughput
from mae_vlm.data.reader import Reader
from mae_vlm.data.transforms import Resize
from mae_vlm.heads.parts.spectrum import deviation, effective_rank, uniformity
from mae_vlm.learners.sharding import whole

_LEAST = 100  # pictures of the shortest run
_LOOK = 10  # steps between two looks at the clock
# Shares of the start's value below which features may be collapsing. Seen on CIFAR-10: in three ordinary runs the rank falls within
# some tens of steps to .28 to .71 of its start and recovers slowly, the deviation stays above .55; at 100 times the learning rate one
# run fell to .16 in rank and .37 in deviation, another to .23 and .025. Uniformity goes by the deviation's square: it would say it twice.
_ALARMS = {"features/effective_rank": 0.2, "features/deviation": 0.25}


class Probes(Callback):
    """Looks at the features of a few validation pictures at the start, in between, and at the end of a run.

    With labels: a linear probe (``probe/linear``) and nearest neighbours (``probe/knn``) on the mean patch token of every block
    (``probe/block_<k>/...``), the best block (``probe/best_block``, from 1) chosen by pictures that are not scored. Each half of the
    pictures is answered by what was fitted to the other half. Always, of the last block: ``features/effective_rank``,
    ``features/deviation`` and ``features/uniformity``, as alarms of collapse against this run's own start; they do not tell quality.
    ``probe/time_fraction`` is the time that all of it took, over the run's.

    Nothing of the run is touched: random states, modes and the order of training are what they were.

    Args:
        every_n_steps: probe every so many optimizer steps, whatever it costs.
        every_n_minutes: likewise, of time; the clock is looked at every ten steps.
        pictures: held-out pictures at most; fewer in a run so short that the first and the last probe would take more than
            ``time_share``, but 100; 0 turns probes off.
        time_share: with neither interval given, a probe follows a validation as soon as it fits within this share of the time gone by, the
            last probe included.

    Raises:
        ValueError: an interval or share that is not positive, or a negative number of pictures.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = None,
        pictures: int = 2000,
        time_share: float = 0.03,
    ) -> None:
        if (every_n_steps is not None and every_n_steps < 1) or (every_n_minutes is not None and every_n_minutes <= 0):
            raise ValueError(f"probes.every_n_steps {every_n_steps} and every_n_minutes {every_n_minutes} must be positive, or left out")
        if pictures < 0 or not 0 < time_share <= 1:
            raise ValueError(f"probes.pictures {pictures} must be at least 0 (none), time_share {time_share} more than 0 and at most 1")
        self.every_n_steps, self.every_n_minutes = every_n_steps, every_n_minutes
        self.pictures, self.time_share = pictures, time_share
        self.folder: Path | None = None  # set by the CLI
        self.clock: Callable[[], float] = time.monotonic
        self.start: dict[str, float] = {}
        self.end: dict[str, float] = {}
        self.step = -1  # of the newest probe
        self.spent = self.newest = 0.0  # seconds of all probes, and of the newest
        self.part: HeldOut | None = None
        self.features_BD: Tensor | None = None  # of the last block, at the newest probe
        self._warned = self._told = self._validated = self._watches = False
        self._before, self._began, self._probed_at = 0.0, 0.0, 0.0
        self._seen, self._images_per_step, self._fallen = -1, 0, 0

    # --- what a checkpoint keeps --------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        kept = {name: getattr(self, name) for name in ("start", "end", "step", "spent", "newest")}
        return {**kept, "warned": self._warned, "fallen": self._fallen, "elapsed": self.elapsed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in ("start", "end", "step", "spent", "newest"):
            setattr(self, name, state_dict[name])
        self._warned, self._fallen, self._before = state_dict["warned"], state_dict["fallen"], state_dict["elapsed"]

    def elapsed(self) -> float:
        """Seconds that the run has trained, probes and validations included, also before it was resumed."""
        return self._before + (self.clock() - self._began if self._watches else 0.0)

    # --- when ---------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = self._probed_at = self.clock()
        self._watches, self._seen, self._images_per_step, self.part = True, -1, 0, None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated = True

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step == self._seen or not self._can(trainer, pl_module):  # between the micro-steps of one step nothing has changed
            return
        self._seen, self._images_per_step = step, len(batch) * trainer.world_size * trainer.accumulate_grad_batches
        if self._is_due(trainer, step):
            self._probe(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.step != trainer.global_step and self._images_per_step:
            self._probe(trainer, pl_module, ended=True)
        self._before, self._watches = self.elapsed(), False

    def _can(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        if not self.pictures or getattr(trainer, "fast_dev_run", False) or not hasattr(pl_module, "towers"):
            return False
        if _reader(trainer) is None and not self._told:
            self._told = True
            trainer.print("probes: no validation pictures, so features are not looked at; set data.val_fraction or data.val_path")
        return _reader(trainer) is not None

    def _is_due(self, trainer: pl.Trainer, step: int) -> bool:
        """The same on every process: whatever goes by a clock goes by the first one's."""
        validated, self._validated = self._validated, False
        if step == self.step:
            return False
        if not self.start:
            return True
        if self.every_n_steps is not None and step % self.every_n_steps == 0:
            return True
        if self.every_n_minutes is not None and step % _LOOK == 0:
            return first_says(trainer, self.clock() - self._probed_at > 60 * self.every_n_minutes)
        if self.every_n_steps is None and self.every_n_minutes is None and validated:
            return first_says(trainer, self.affords())
        return False

    def affords(self) -> bool:
        """Whether this probe, and the last one after it, stay within the share of the time gone by, if they take as long as the newest."""
        return self.spent + 2 * self.newest <= self.time_share * self.elapsed()

    def count_for(self, images: float) -> int:
        """Pictures that the first and the last probe of a run over ``images`` pictures can look at.

        A picture seen whole and without gradients costs about what one costs in training, where most of it is masked but gradients
        are wanted; and fitting is allowed as much again.
        """
        wanted = self.time_share * images / 4
        return self.pictures if wanted >= self.pictures else min(self.pictures, max(_LEAST, int(wanted)))

    # --- what ---------------------------------------------------------------------------------------------------------

    def _probe(self, trainer: pl.Trainer, pl_module: Any, ended: bool = False) -> None:
        began, state = self.clock(), own_state()
        if self.part is None:
            reader = _reader(trainer)
            assert reader is not None
            count = self.count_for(trainer.estimated_stepping_batches * self._images_per_step)
            self.part = HeldOut(reader, count, trainer.global_rank, trainer.world_size)
        labels_B, features_LBD = self._looked_at(trainer, pl_module)
        self.features_BD = None if labels_B is None else features_LBD[-1].cpu()
        told = {} if labels_B is None else self._measured(trainer, features_LBD, labels_B)
        restore([state], 0)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Throughput):
                callback.on_validation_start(trainer, pl_module)  # the time spent here is no waiting for data
        self.step, self._probed_at = trainer.global_step, self.clock()
        self.newest = self._probed_at - began
        self.spent += self.newest
        told["probe/time_fraction"] = self.spent / max(self.elapsed(), 1e-9)
        self.start = self.start or told
        self.end = told
        for logger in trainer.loggers:
            logger.log_metrics(told, step=self.step)
        self._warn(trainer, ended)

    def _looked_at(self, trainer: pl.Trainer, pl_module: Any) -> tuple[Tensor | None, Tensor]:
        """Labels ``[B]`` and features ``[L, B, D]`` of the held-out pictures; no labels where features are not finite.

        Without gradients, but not in inference mode: what a module keeps from such a pass could not be trained with afterwards.
        """
        assert self.part is not None
        encoder = pl_module.towers.image
        modes = [(module, module.training) for module in encoder.modules()]
        encoder.eval()
        with whole(pl_module), torch.no_grad(), trainer.precision_plugin.forward_context():
            features_LBD, labels_B = self.part.features(pl_module, encoder), self.part.labels(pl_module)
        for module, mode in modes:
            module.training = mode
        return labels_B if bool(features_LBD.isfinite().all()) else None, features_LBD

    def _measured(self, trainer: pl.Trainer, features_LBD: Tensor, labels_B: Tensor) -> dict[str, float]:
        last_BD = features_LBD[-1].cpu()
        told = {
            "features/effective_rank": effective_rank(last_BD - last_BD.mean(dim=0)),
            "features/deviation": deviation(last_BD),
            "features/uniformity": uniformity(last_BD) if len(last_BD) > 1 else 0.0,
        }
        why = why_unlabelled(labels_B)
        if why and not self.start:
            trainer.print(f"probes: no linear probe and no kNN: {why}")
        if why or not bool((labels_B >= 0).any()):
            return told
        return self._scored(trainer, *placed(features_LBD, labels_B)) | told

    @staticmethod
    def _scored(trainer: pl.Trainer, features_LBD: Tensor, labels_B: Tensor) -> dict[str, float]:
        """Probe and kNN of every block; processes share the blocks and tell each other."""
        depth = len(features_LBD)
        own = {block: crosswise(features_LBD[block], labels_B) for block in range(trainer.global_rank, depth, trainer.world_size)}
        found: list[dict[int, Scores]] = [own]
        if trainer.world_size > 1:
            found = [{} for _ in range(trainer.world_size)]
            dist.all_gather_object(found, own)
        scores = {block: score for one in found for block, score in one.items()}
        best = max(range(depth), key=lambda block: scores[block].held)
        told = {"probe/linear": scores[best].linear, "probe/knn": scores[best].knn, "probe/best_block": best + 1.0}
        for block in range(depth):
            told |= {f"probe/block_{block + 1}/linear": scores[block].linear, f"probe/block_{block + 1}/knn": scores[block].knn}
        return told

    def _warn(self, trainer: pl.Trainer, ended: bool = False) -> None:
        """One line in a whole run, when in two probes in a row, or at its end, features take up much less room than at its start."""
        both = [(tag, self.end[tag], self.start[tag]) for tag in _ALARMS if tag in self.end and tag in self.start]
        fallen = [(tag, now, then) for tag, now, then in both if now < _ALARMS[tag] * then]
        self._fallen = self._fallen + 1 if fallen else 0
        if fallen and not self._warned and (ended or self._fallen > 1):
            self._warned = True
            told = ", ".join(f"{tag} {now:.3g} (start {then:.3g})" for tag, now, then in fallen)
            trainer.print(
                f"probes: features of the last block may be collapsing at step {self.step}: {told}; "
                "a lower model.optimizer.base_lr or a longer warm-up helps most often"
            )

    def lines(self) -> list[str]:
        """For the end of a run: scores of the first and the newest probe side by side, and what they cost."""
        if not self.end:
            return []
        named = (
            ("probe/linear", f"linear probe (block {self.end.get('probe/best_block', 0):.0f})"),
            ("probe/knn", "kNN (understates MAE)"),
            ("features/effective_rank", "effective rank"),
        )
        rows = [f"{words:<24}{self.start.get(tag, float('nan')):>8.4f}  {self.end[tag]:>8.4f}" for tag, words in named if tag in self.end]
        share = f"probes took {100 * self.end['probe/time_fraction']:.1f} % of the run's time"
        return ["", f"{'held-out pictures':<24}{'start':>8}  {'end':>8}", *rows, share]


def _reader(trainer: pl.Trainer) -> Reader | None:
    """What reads the validation pictures, as validation does; None where there are none."""
    loaders, data = trainer.val_dataloaders, getattr(trainer, "datamodule", None)
    loader = loaders[0] if isinstance(loaders, list | tuple) and loaders else loaders
    found = getattr(loader, "dataset", None)
    if isinstance(found, Reader) and data is not None and data.val_size is not None:
        found = copy(found)  # the encoder is looked at alone, and takes pictures of its own size
        found.transform = Resize(data.size)
    return found if isinstance(found, Reader) else None
