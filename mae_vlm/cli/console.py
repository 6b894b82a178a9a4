"""A calm console: our own lines, warnings that a user can act on, no adverts."""

from __future__ import annotations

import logging
import os
import sys
import warnings

# Each silenced line is either an advert, or about something that this project does on purpose.
_NEEDLESS = (
    r".*does not have many workers.*",  # the number of workers is chosen and reported by us
    r".*litlogger.*",
    r".*LeafSpec.*",
    r".*is deprecated and will be removed.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*`isinstance\(treespec, LeafSpec\)`.*",
    r".*Found \d+ module\(s\) in eval mode.*",
    r".*srun.*command is available on your system but is not used.*",
    r".*pin_memory.*no accelerator is found.*",
    r".*Experiment logs directory.*",
    r".*LightningCLI's args parameter is intended.*",
    r".*Couldn't infer the batch indices.*",
    r".*your dataloader is not resumable.*",  # the place in the order is in our own state
    r".*It is recommended to use `self.log\('(val|test)/.*sync_dist=True.*",  # these means are over all processes already
    r".*Trying to infer the `batch_size`.*",
    r".*lr_scheduler\.step\(\).*before.*optimizer\.step\(\).*",
)
_ADVERTS = (
    "Tip:",
    "💡",
    "litlogger",
    "litmodels",
    " available: ",  # a line per kind of accelerator
    "Seed set to",
    "`weights_only` was not set",
    "`Trainer(val_check_interval=",
    "----------",
    "distributed_backend=",
    "Loading `train_dataloader` to estimate",
    "Restoring states",  # the run's own line names the checkpoint
    "Restored all states",
    "Loaded model weights",
    "Automatic Mixed Precision",  # the run's own line tells the precision
)


class _NoAdverts(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not any(advert in message for advert in _ADVERTS)


def calm() -> None:
    """Silence adverts and needless warnings of the libraries, before they are imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for pattern in _NEEDLESS:
        warnings.filterwarnings("ignore", message=pattern)


def hide_adverts() -> None:
    """Drop Lightning's advertising log lines; call it after Lightning is imported, which installs its own handlers."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logger = logging.getLogger(name)
        for place in (logger, *logger.handlers):
            place.addFilter(_NoAdverts())


def is_first_process() -> bool:
    """Whether this process speaks for the run: rank 0, or no rank yet."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def say(message: str) -> None:
    """One line to the user, from the first process only."""
    if is_first_process():
        print(message, flush=True)


def complain(message: str) -> None:
    """One error line, from the first process only: the others found the same."""
    if is_first_process():
        print(f"mae_vlm: error: {message}", file=sys.stderr, flush=True)
