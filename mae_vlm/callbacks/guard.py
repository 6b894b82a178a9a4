"""Numbers gone bad: a step whose gradient is not finite changes nothing; too many in a row take the run back to its last good weights."""

from __future__ import annotations

import json
import math
from collections import deque
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from mae_vlm import storage
from mae_vlm.callbacks.checkpoint import Checkpoint
from mae_vlm.callbacks.ema import Ema
from mae_vlm.callbacks.expendable import expendable
from mae_vlm.types import Batch

REPORT = "bad_steps.jsonl"
_HISTORY = 200  # losses that a spike is told from


class _Step(NamedTuple):
    """What is known of one optimizer step; tensors stay on the device until they are looked at."""

    number: int
    norm: Tensor
    terms: dict[str, Tensor]
    rate: float
    ids: list[str]


class Guard(Callback):
    """Keeps weights and optimizer as they are, on all processes, in a step whose gradient is not finite on any of them.

    The optimizer's own device-side switch does it (``found_inf`` of fused AdamW; the moments and the step count stay too), after
    gradients are averaged over processes, so that all see the same; the host looks at the flags at log steps only: no step waits for
    it. Bad steps go to ``RUN/bad_steps.jsonl`` with the ids of their samples, loss terms, learning rate and gradient norm, and are
    counted in ``guard/skipped_steps``. Losses far above those before are marked there too (``guard/spikes``), and nothing else is done
    about them.

    Args:
        in_a_row: so many bad steps one after the other take weights and optimizer back to the last checkpoint before them; the data
            goes on, so that the stretch is skipped. Once in a look at the flags, however many are bad in it; and bad steps that
            follow belong to the same stretch until one is good.
        rollbacks: how often; the next time the run stops with a report.
        spike: a loss is one if it lies so many times the usual deviation (median absolute) above the median of the last 200.

    Raises:
        ValueError: a number that is not positive.
    """

    def __init__(self, in_a_row: int = 3, rollbacks: int = 3, spike: float = 10.0) -> None:
        if in_a_row < 1 or rollbacks < 0 or spike <= 0:
            raise ValueError(f"guard.in_a_row {in_a_row} and spike {spike} must be positive, rollbacks {rollbacks} at least 0")
        self.in_a_row, self.rollbacks, self.spike = in_a_row, rollbacks, spike
        self.folder: Path | None = None  # set by the CLI, which numbers the run
        self.skipped = self.spikes = self.rolled_back = 0
        self._unread: list[_Step] = []
        self._ids: list[str] = []
        self._row: list[int] = []  # bad steps one after the other, anew after a rollback
        self._since: int | None = None  # the bad stretch's first step; over only with a good step taken after the rollback
        self._losses: deque[float] = deque(maxlen=_HISTORY)

    def state_dict(self) -> dict[str, Any]:
        counts = {"skipped": self.skipped, "spikes": self.spikes, "rolled_back": self.rolled_back}
        stretch = {"row": self._row, "since": self._since}
        return counts | stretch | {"losses": [*self._losses], "unread": [_read(step) for step in self._unread]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.spikes, self.rolled_back = (state_dict[name] for name in ("skipped", "spikes", "rolled_back"))
        self._row = list(state_dict.get("row", []))
        self._since = state_dict.get("since", self._row[0] if self._row else None)
        self._losses = deque(state_dict.get("losses", []), maxlen=_HISTORY)
        self._unread = [_unread(step, torch.device("cpu")) for step in state_dict.get("unread", [])]

    @property
    def needed(self) -> int | None:
        """The oldest step that is bad or may prove so: a rollback takes a checkpoint from before it. None: any will do."""
        return self._since if self._since is not None or not self._unread else self._unread[0].number

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._unread = [_unread(_read(step), pl_module.device) for step in self._unread]
        self._ids = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int) -> None:
        self._ids.extend(batch.ids)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if loss.requires_grad:  # a loss that is not finite makes every gradient so, on all processes, even where its own would be finite
            healthy = 1 + 0 * loss.detach()
            loss.register_hook(lambda gradient: gradient * healthy)  # type: ignore[no-untyped-call]

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # sharded weights
        optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
        terms = {name: torch.stack(values).mean() for name, values in getattr(pl_module, "terms", {}).items()}
        rate = float(optimizer.param_groups[0]["lr"])
        self._unread.append(_Step(trainer.global_step, norm, terms, rate, self._ids))
        self._ids = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if len(self._unread) >= max(1, self._every(trainer, pl_module)):
            self._look(trainer, pl_module)
            for name, count in self._counts().items():
                pl_module.log(name, count, rank_zero_only=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._unread:
            return
        last = self._unread[-1].number
        self._look(trainer, pl_module)
        for logger in trainer.loggers:  # Lightning lets no module log here
            logger.log_metrics(self._counts(), step=last)

    def _every(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> int:
        """Steps between two looks: on a GPU reading a flag would make the host wait."""
        return 1 if pl_module.device.type == "cpu" else trainer.log_every_n_steps  # type: ignore[attr-defined]

    def _counts(self) -> dict[str, float]:
        return {"guard/skipped_steps": float(self.skipped), "guard/spikes": float(self.spikes)}

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the flags of the steps since the last look, in one transfer; go back once where there is reason."""
        steps, self._unread = self._unread, []
        norms = torch.stack([step.norm for step in steps]).tolist()
        losses_S = torch.stack([step.terms.get("train/loss", step.norm) for step in steps])
        losses = (trainer.strategy.reduce(losses_S, reduce_op="mean") if trainer.world_size > 1 else losses_S).tolist()
        stretch: list[int] = []  # the first that is long enough
        since = 0
        for step, norm, loss in zip(steps, norms, losses, strict=True):
            if math.isfinite(norm):
                self._row, self._since = [], None
                self._mark_spike(trainer, step, norm, loss)
                continue
            self.skipped += 1
            self._row.append(step.number)
            self._since = step.number if self._since is None else self._since
            self._tell(trainer, step, norm, "not finite")
            if not stretch and len(self._row) >= self.in_a_row:
                stretch, since = self._row, self._since
        if stretch:
            self._roll_back(trainer, pl_module, stretch, since)

    def _mark_spike(self, trainer: pl.Trainer, step: _Step, norm: float, loss: float) -> None:
        if len(self._losses) >= _HISTORY // 4:
            middle = median(self._losses)
            usual = median(abs(one - middle) for one in self._losses)
            if loss > middle + self.spike * max(usual, 1e-3 * abs(middle)):
                self.spikes += 1
                self._tell(trainer, step, norm, "spike")
        if math.isfinite(loss):
            self._losses.append(loss)

    def _tell(self, trainer: pl.Trainer, step: _Step, norm: float, kind: str) -> None:
        """Facts of a step from all processes; every one of them comes here at the same step."""
        facts: list[Any] = [self._facts(trainer, step, norm)]
        if trainer.world_size > 1:
            own, facts = facts[0], [None] * trainer.world_size
            dist.all_gather_object(facts, own)
        self._write(trainer, facts, kind)

    def _facts(self, trainer: pl.Trainer, step: _Step, norm: float) -> dict[str, Any]:
        values = {name: value.item() for name, value in step.terms.items()}
        terms = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}  # JSON knows no NaN
        return {
            "process": trainer.global_rank,
            "terms": terms,
            "lr": step.rate,
            "grad_norm": str(norm),
            "step": step.number,
            "ids": step.ids,
        }

    def _write(self, trainer: pl.Trainer, facts: list[dict[str, Any]], kind: str) -> None:
        if not trainer.is_global_zero or self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with expendable(str(self.folder / REPORT)), (self.folder / REPORT).open("a") as file:
            for one in facts:
                file.write(json.dumps({"kind": kind, **one}) + "\n")

    def _roll_back(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stretch: list[int], since: int) -> None:
        """Weights, optimizer and average from before step ``since``; what was seen of the weights that are left no longer counts."""
        self._row, self._since = [], since
        good = trainer.strategy.broadcast(self._last_good(trainer, since))
        if good is None or self.rolled_back >= self.rollbacks:
            why = "no checkpoint is older" if good is None else f"{self.rolled_back} rollbacks did not help"
            raise ValueError(
                f"the gradient was not finite for {len(stretch)} steps in a row from step {stretch[0]} on, and {why}; "
                f"see {REPORT} in the run's folder; "
                "use a lower model.optimizer.base_lr, trainer.gradient_clip_val 1.0, or trainer.precision 32-true"
            )
        self.rolled_back += 1
        content = trainer.strategy.load_checkpoint(good, weights_only=True)
        trainer.strategy.load_model_state_dict(content, strict=True)
        trainer.strategy.load_optimizer_state_dict(content)
        _average_again(trainer, pl_module, content["callbacks"])
        if trainer.is_global_zero:
            print(
                f"steps {stretch[0]} to {stretch[-1]} had no finite gradient: weights and optimizer are those of {good} again "
                f"(rollback {self.rolled_back} of {self.rollbacks}); the pictures in between are skipped",
                flush=True,
            )

    def _last_good(self, trainer: pl.Trainer, first: int) -> str | None:
        """The newest whole checkpoint of this run from before step ``first``."""
        saver = next((one for one in trainer.checkpoint_callbacks if isinstance(one, Checkpoint)), None)
        if not trainer.is_global_zero or saver is None or saver.folder is None:
            return None
        for file in storage.checkpoints(saver.folder / "checkpoints"):
            if file.name.startswith("step_") and int(file.stem.removeprefix("step_")) <= first and storage.damage(file) is None:
                return str(file)
        return None


def _average_again(trainer: pl.Trainer, pl_module: pl.LightningModule, states: dict[str, Any]) -> None:
    """The checkpoint's average; where it has none, written before there was ``ema.decay``, one that begins with its weights."""
    for average in (one for one in trainer.callbacks if isinstance(one, Ema) and one.weights):  # type: ignore[attr-defined]
        kept = states.get(average.state_key)
        if kept:
            average.go_back(kept)
        else:
            average.weights, average.steps = {}, 0
            average.on_train_start(trainer, pl_module)


def _read(step: _Step) -> dict[str, Any]:
    """A step as plain numbers, for a checkpoint; waits for the device."""
    terms = {name: value.item() for name, value in step.terms.items()}
    return step._asdict() | {"norm": step.norm.item(), "terms": terms}


def _unread(step: dict[str, Any], device: torch.device) -> _Step:
    numbers = {name: torch.tensor(value, device=device) for name, value in step["terms"].items()}
    return _Step(**step | {"norm": torch.tensor(step["norm"], device=device), "terms": numbers})
