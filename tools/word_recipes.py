"""The small recipes of ``tools.word_sets``: configs as plain data, for one core and some minutes."""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]


def part(path: str, **options: Any) -> Config:
    """A class of the package with its options."""
    return {"class_path": f"mae_vlm.{path}", "init_args": options}


def answering(data: str, steps: int, picture: bool, image_size: int, questions: int, crop: tuple[float, float]) -> Config:
    """Questions by a small CNN, whose norms over the batch learn colours and shapes within a few hundred steps, where a ViT does not."""
    return _config(data, steps, image_size, 32, crop) | {
        "model": part(
            "learners.finetune.Finetuner",
            encoder=part("encoders.cnn.Cnn", name="test_resnet"),
            text=part("encoders.text.transformer.Transformer", width=96, depth=1, heads=2, length=24),
            fusion=part("encoders.fusion.late.Late", pool="mean"),
            heads={"answer": part("heads.answer.AnswerQuestions", loss="cross_entropy", questions=questions, picture=picture)},
            optimizer=part("learners.optim.AdamW", base_lr=1.6e-2, betas=[0.9, 0.999], warmup=0.05),
        )
    }


def matching(data: str, steps: int, pixels: bool) -> Config:
    """Pictures and captions in one space by CLIP's contrast, with MAE's loss on hidden pixels beside it or without."""
    objectives = {"image_text": part("objectives.image_text.SoftmaxContrast", view="full", width=128, image_queries=4)}
    if pixels:
        objectives["pixels"] = part("objectives.pixels.Pixels", width=64, depth=1)
    return _config(data, steps, 96, 100, (0.8, 1.0)) | {
        "model": part(
            "learners.pretrain.Pretrainer",
            encoder=part("encoders.vit.Vit", width=128, depth=3, heads=4, patch=16),
            text=part("encoders.text.transformer.Transformer", width=128, depth=1, heads=4, length=24),
            masking=part("tokens.masking.RandomMask", ratio=0.75),
            objectives=objectives,
            optimizer=part("learners.optim.AdamW", base_lr=2.5e-3, betas=[0.9, 0.999], warmup=0.05),
        )
    }


def _config(data: str, steps: int, image_size: int, batch: int, crop: tuple[float, float]) -> Config:
    return {
        "seed_everything": 0,
        "trainer": {"max_steps": steps, "precision": "32-true", "val_check_interval": max(1, steps // 4)},
        "data": {"path": data, "image_size": image_size, "batch_size": batch, "crop_scale": list(crop), "num_workers": 0},
    }
