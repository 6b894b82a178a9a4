"""Promises of mae_vlm.tokens.chance, against SplitMix64 in Python's own integers."""

import itertools

import pytest
import torch

from mae_vlm.tokens.chance import key_of, uniform

WORD = (1 << 64) - 1
ROSETTA = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]  # seed 1234567


def mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def splitmix64(seed: int, count: int) -> list[int]:
    return [mix((seed + i * 0x9E3779B97F4A7C15) & WORD) for i in range(1, count + 1)]


def test_the_reference_of_these_tests_is_the_published_generator():
    assert splitmix64(1234567, 5) == ROSETTA


@pytest.mark.parametrize("stream", [0, 1, 2, 77])
def test_uniform_is_splitmix64_seeded_by_key_and_stream(stream):
    keys = [0, 1, -1, 2**63 - 1, -(2**63), 1234567, key_of(3, 1, 4)]
    drawn = uniform(torch.tensor(keys), 300, stream)
    for key, numbers in zip(keys, drawn, strict=True):
        seed = (key & WORD) ^ mix((stream + 0x9E3779B97F4A7C15) & WORD)
        assert numbers.double().tolist() == [(word >> 40) / 2**24 for word in splitmix64(seed, 300)]


def test_uniform_numbers_lie_in_zero_to_one_and_fill_it_evenly():
    numbers = uniform(torch.arange(200), 500).double()
    assert numbers.min() >= 0 and numbers.max() < 1
    share = torch.histc(numbers.float(), 20, 0, 1) / numbers.numel()
    assert (share - 0.05).abs().max() < 5 * (0.05 * 0.95 / numbers.numel()) ** 0.5


def test_neighbouring_keys_and_streams_give_unrelated_numbers():
    rows = torch.cat([uniform(torch.arange(8), 2000), uniform(torch.arange(8), 2000, stream=1)]).double()
    off_diagonal = torch.corrcoef(rows) - torch.eye(16, dtype=torch.float64)
    assert off_diagonal.abs().max() < 5 / 2000**0.5


def test_a_longer_draw_begins_with_the_shorter_one():
    keys_B = torch.arange(3)
    assert torch.equal(uniform(keys_B, 50)[:, :7], uniform(keys_B, 7))


def test_a_key_depends_on_the_order_of_its_parts_and_on_their_number():
    keys = [key_of(*parts) for parts in itertools.permutations((0, 1, 2))] + [key_of(), key_of(0), key_of(0, 0), key_of(1), key_of(-1)]
    assert len(set(keys)) == len(keys)


def test_a_key_fits_int64():
    for part in range(200):
        assert -(2**63) <= key_of(part, 5) < 2**63
    assert torch.tensor([key_of(part) for part in range(200)]).dtype == torch.int64
