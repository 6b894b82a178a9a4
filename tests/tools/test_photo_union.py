"""A union of sets leaves out training pictures that look like a validation picture of any of them."""

import numpy as np
from PIL import Image

from tools.photo_union import write_union


def test_what_looks_like_a_validation_picture_of_another_set_is_left_out(tmp_path):
    draw = np.random.default_rng(0)
    photos = [
        Image.fromarray(draw.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((64, 64), Image.Resampling.BICUBIC) for _ in range(7)
    ]
    for place, numbers in {"a/train": [0, 1, 2], "a/val": [3], "b/train": [3, 4], "b/val": [5, 6]}.items():
        (tmp_path / place).mkdir(parents=True)
        for number in numbers:
            photos[number].save(tmp_path / place / f"{number}.png")
    kept = write_union({name: tmp_path / name for name in "ab"}, tmp_path / "out")
    assert sorted(str(file.relative_to(kept)) for file in kept.rglob("*.png")) == [
        "a/train_000000.png",
        "a/train_000001.png",
        "a/train_000002.png",
        "b/train_000001.png",
    ]
    assert "1 training pictures left out" in (tmp_path / "out" / "done").read_text()
