from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch
from pictures_on_disk import picture, write_folder
from PIL import Image

from data_prep.__main__ import main
from data_prep.moments import Moments


def test_mean_and_deviation_are_those_of_all_pixels_at_once(tmp_path, capsys):
    write_folder(tmp_path / "a", [f"{number}.png" for number in range(150)])
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(picture(number)))) for number in range(150)]).reshape(-1, 3) / 255
    assert main(["statistics", str(tmp_path / "a"), "--workers", "1"]) == 0
    told = capsys.readouterr().out
    for name, values in (("mean", pixels.mean(0)), ("std", pixels.std(0))):
        line = f"[{', '.join(f'{value:.4f}' for value in values)}]"
        assert f"\n  {name}: {line}\n" in told and f"--data.{name} '{line}'" in told


def test_some_pictures_are_spread_by_a_permutation_and_counted(tmp_path, capsys):
    write_folder(tmp_path / "a", [f"{number:03d}.png" for number in range(40)])
    assert main(["statistics", str(tmp_path / "a"), "--pictures", "10", "--workers", "1"]) == 0
    assert "10 of 40 pictures" in capsys.readouterr().out


def test_a_broken_picture_is_told_and_left_out(tmp_path, capsys):
    write_folder(tmp_path / "a", ["a.png", "b.png"])
    (tmp_path / "a" / "c.png").write_bytes(b"no picture")
    assert main(["statistics", str(tmp_path / "a"), "--workers", "1"]) == 0
    assert re.search(r"2 of 3 pictures.*\n# 1 could not be read, the first: c\.png", capsys.readouterr().out)


def test_sums_are_exact_in_any_order_and_grey_counts_as_three_channels():
    generator = torch.Generator().manual_seed(0)
    colour = [torch.randint(0, 256, (3, 5, 7), generator=generator, dtype=torch.uint8) for _ in range(3)]
    grey = torch.randint(0, 256, (1, 4, 4), generator=generator, dtype=torch.uint8)
    one, other = Moments(), Moments()
    for image in [*colour, grey]:
        one.add(image)
    for image in [grey, *colour[::-1]]:
        part = Moments()
        part.add(image)
        other.merge(part)
    assert one == other
    values = torch.cat([image.expand(3, -1, -1).reshape(3, -1) for image in [*colour, grey]], dim=1).double().numpy() / 255
    mean, deviation = one.mean_and_deviation()
    np.testing.assert_allclose(mean, values.mean(1), rtol=1e-12)
    np.testing.assert_allclose(deviation, values.std(1), rtol=1e-12)


def test_sixteen_bits_are_told_in_the_same_range_also_among_eight():
    deep = torch.from_numpy(np.arange(0, 60000, 1000, dtype=np.uint16).reshape(1, 6, 10))
    moments = Moments()
    moments.add(deep)
    assert moments.mean_and_deviation()[0] == pytest.approx([np.arange(0, 60000, 1000).mean() / 65535])
    moments.add(torch.full((1, 6, 10), 255, dtype=torch.uint8))
    assert moments.mean_and_deviation()[0] == pytest.approx([(np.arange(0, 60000, 1000).mean() / 65535 + 1) / 2])


def test_pictures_of_other_bands_are_not_mixed():
    moments = Moments()
    moments.add(torch.zeros(4, 2, 2, dtype=torch.uint8))
    moments.add(torch.zeros(3, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="pictures of 3, 4 channels are mixed"):
        moments.mean_and_deviation()
