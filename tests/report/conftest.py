"""Runs as they were recorded (``thin.py`` made them of real ones), and one of them with pictures."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RECORDED = Path(__file__).parent / "recorded"


@pytest.fixture(scope="session")
def recorded():
    """name -> the folder of a recorded run."""
    return lambda name: RECORDED / name


@pytest.fixture(scope="session")
def run_with_pictures(tmp_path_factory):
    """A recorded run's copy with pictures of two kinds, at eight and at two steps."""
    run = shutil.copytree(RECORDED / "scenes", tmp_path_factory.mktemp("runs") / "scenes" / "version_0")
    draw = np.random.default_rng(0)
    (run / "pictures").mkdir()
    for kind, steps in (("reconstruction", range(0, 80, 10)), ("attention", (0, 70))):
        for step in steps:
            pixels = draw.integers(0, 256, (300, 480, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(run / "pictures" / f"{kind}_{step:08d}.png")
    return run
