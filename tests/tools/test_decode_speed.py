from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from tools import decode_speed


@pytest.fixture
def photos() -> list[bytes]:
    noise = [np.random.default_rng(n).integers(0, 255, (30, 40, 3), dtype=np.uint8) for n in range(3)]
    images = [Image.fromarray(pixels).resize((500, 400 - n)) for n, pixels in enumerate(noise)]
    return [decode_speed._jpeg(image, 90, 0) for image in images]


def test_mosaics_have_the_size_asked_for_and_the_bits_per_pixel_of_the_photos(photos):
    made = decode_speed.mosaics(photos, 800, 2, None, 0)
    assert [Image.open(io.BytesIO(data)).size for data in made] == [(800, 600)] * 2 and made[0] != made[1]
    assert decode_speed.bits_per_pixel(made) == pytest.approx(decode_speed.bits_per_pixel(photos), rel=0.2)
    assert decode_speed.mosaics(photos, 800, 2, None, 0) == made


def test_every_contender_is_timed_in_every_round(photos):
    rates = decode_speed.measure(photos, (0.2, 1.0), rounds=2)
    assert set(rates) == set(decode_speed.CONTENDERS) and all(len(own) == 2 and min(own) > 0 for own in rates.values())


def test_without_data_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["decode_speed", "--data", str(tmp_path / "no")])
    decode_speed.main()
    assert "nothing measured" in capsys.readouterr().out
