"""Promises of mae_vlm.tokens.positions, against the paper's formula written out in numpy."""

import math

import numpy as np
import pytest

from mae_vlm.tokens.positions import sincos_2d


def paper_table(width: int, rows: int, columns: int) -> np.ndarray:
    """Half the width for the column, half for the row; in each half sines then cosines of place / 10000^(i / (width / 4))."""
    quarter = width // 4
    table = np.zeros((rows * columns, width))
    for row in range(rows):
        for column in range(columns):
            for half, place in enumerate((column, row)):
                for i in range(quarter):
                    angle = place / math.pow(10000.0, i / quarter)
                    table[row * columns + column, half * 2 * quarter + i] = math.sin(angle)
                    table[row * columns + column, half * 2 * quarter + quarter + i] = math.cos(angle)
    return table


@pytest.mark.parametrize(("width", "rows", "columns"), [(32, 4, 4), (64, 3, 7), (4, 5, 2), (48, 1, 9)])
def test_positions_equal_the_papers_formula(width, rows, columns):
    ours = sincos_2d(width, rows, columns).numpy()
    np.testing.assert_allclose(ours, paper_table(width, rows, columns), rtol=0, atol=6e-8)


def test_positions_hold_the_picture_width_first():
    table = sincos_2d(16, rows=3, columns=5)
    first_row_ND = table[:5]  # one row of the grid: only the column moves
    assert (first_row_ND[:, :8].diff(dim=0).abs().sum(1) > 0).all()
    assert (first_row_ND[:, 8:] == first_row_ND[:1, 8:]).all()


def test_prefix_tokens_have_zero_positions():
    table = sincos_2d(16, 2, 3, prefix=4)
    assert (table[:4] == 0).all()
    assert (table[4:] == sincos_2d(16, 2, 3)).all()


def test_a_width_that_four_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of 4, got 18"):
        sincos_2d(18, 2, 2)
