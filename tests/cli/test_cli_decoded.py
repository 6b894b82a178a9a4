"""What looks at decoded pictures, named in a config, through the real command line."""

from __future__ import annotations

import yaml
from tiny_runs import TINY, content, curve, in_process

OPTIONS = {
    "perceptual": {"class_path": "mae_vlm.objectives.parts.perceptual.Perceptual", "init_args": {"weight": 0.2, "layers": [1]}},
    "adversarial": {"class_path": "mae_vlm.objectives.parts.adversarial.Adversarial", "init_args": {"width": 4, "ramp": 4}},
}


def test_both_options_train_from_a_config_and_log_their_terms(tmp_path):
    pixels = {"class_path": "mae_vlm.objectives.pixels.Pixels", "init_args": OPTIONS}
    encoder = {"class_path": "mae_vlm.encoders.vit.Vit"}
    masking = {"class_path": "mae_vlm.tokens.masking.RandomMask"}
    optimizer = {"class_path": "mae_vlm.learners.optim.AdamW"}
    stated = {"encoder": encoder, "masking": masking, "objectives": {"pixels": pixels}, "optimizer": optimizer, "teacher": 0.9}
    config = tmp_path / "decoded.yaml"
    config.write_text(yaml.safe_dump({"model": {"class_path": "mae_vlm.learners.pretrain.Pretrainer", "init_args": stated}}))
    quiet = ["--probes.pictures", "0", "--pictures.encoder", "false", "--trainer.log_every_n_steps", "1"]
    length = ["--trainer.max_steps", "3", "--trainer.default_root_dir", tmp_path]
    assert in_process("fit", "--config", config, *TINY, *quiet, *length) == 0
    run = tmp_path / "decoded" / "version_0"
    for term in ("masked_mse", "perceptual", "adversarial", "fooled"):
        assert len(curve(run, f"train/pixels/{term}")) == 3 and curve(run, f"val/pixels/{term}"), term
    assert [*curve(run, "val/loss").values()] == [*curve(run, "val/pixels/masked_mse").values()]
    state = content(run)["state_dict"]
    assert state["objectives.pixels.adversarial.steps"] == 3
    assert not any(name.startswith("objectives.pixels.perceptual") for name in state)  # the teacher is the learner's own
