"""The gradients of a real Trainer's first step, on one process or on each of several. Shared by tests/learners and tests/heads."""

from __future__ import annotations

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from mae_vlm.data.module import Data


class _Grab(Callback):
    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.found = {name: weight.grad.clone() for name, weight in module.named_parameters() if weight.grad is not None}


def first_gradients(learner, pictures: int, processes: int, accumulation: int) -> dict[str, np.ndarray]:
    """Of a step of ``pictures`` scenes of 32 pixels, by name; as arrays, which outlive the process."""
    data = Data(scenes=4 * pictures, val_scenes=0, image_size=32, batch_size=pictures, num_workers=0)
    data.wants, grab = learner.wants, _Grab()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto", max_steps=1, limit_val_batches=0,
        accumulate_grad_batches=accumulation, use_distributed_sampler=False, callbacks=[grab], **quiet,
    )  # fmt: skip
    data.trainer = trainer
    trainer.fit(learner, datamodule=data)
    return {name: value.numpy() for name, value in grab.found.items()}
