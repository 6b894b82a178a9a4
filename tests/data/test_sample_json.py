from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_vlm.data.sources.parts.sample_json import RunLengths, from_json, to_json
from mae_vlm.data.sources.parts.semantic_png import SemanticPng, to_png
from mae_vlm.types import Question, Sample

FLOATS = st.floats(-1e4, 1e4, width=32)


def through_text(sample):
    return from_json(json.loads(json.dumps(to_json(sample))), "x")


@given(
    st.lists(st.tuples(FLOATS, FLOATS, FLOATS, FLOATS), max_size=4),
    st.lists(st.text(), max_size=3),
    st.lists(st.tuples(st.text(), st.lists(st.text(), max_size=3)), max_size=2),
    st.none() | st.integers(0, 1 << 40),
)
@settings(max_examples=50, deadline=None)
def test_nothing_is_lost(boxes, words, questions, label):
    sample = Sample(
        "x",
        b"",
        label,
        tuple(words),
        tuple(Question(text, tuple(answers)) for text, answers in questions),
        torch.tensor(boxes).reshape(-1, 4),
        torch.arange(len(boxes)),
        crowds=torch.tensor([number % 2 == 0 for number in range(len(boxes))], dtype=torch.bool),
        box_captions=tuple("é" for _ in boxes),
    )
    fields = through_text(sample)
    assert (fields.get("label"), fields.get("captions", ()), fields.get("questions", ())) == (label, sample.captions, sample.questions)
    for name in ("boxes", "classes", "crowds"):
        assert torch.equal(fields[name], getattr(sample, name)) and fields[name].dtype == getattr(sample, name).dtype
    assert fields.get("box_captions", ()) == sample.box_captions


@given(st.integers(0, 3), st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_masks_are_cocos_run_lengths_and_come_back(objects, height, width, share, seed):
    masks = torch.rand(objects, height, width, generator=torch.Generator().manual_seed(seed)) < share
    fields = through_text(Sample("x", b"", masks=masks))
    assert torch.equal(fields["masks"].decode(), masks)
    for mask, counts in zip(masks, fields["masks"].counts, strict=True):
        assert np.array_equal(coco.decode({"size": [height, width], "counts": counts.encode()}), mask.numpy())


def test_long_runs_come_back():
    masks = torch.zeros(2, 700, 900, dtype=torch.bool)
    masks[0, 650:, 880:] = True
    assert torch.equal(through_text(Sample("x", b"", masks=masks))["masks"].decode(), masks)


def test_deferred_masks_are_written_too():
    masks = torch.eye(4, dtype=torch.bool)[None]
    first = through_text(Sample("x", b"", masks=masks))["masks"]
    assert torch.equal(through_text(Sample("x", b"", masks=first))["masks"].decode(), masks)


@pytest.mark.parametrize("counts", ["", "5", "PPPPPPPP", "oooooooooooooooooo0", "~~~", "\u2603", "0" * 40])
def test_run_lengths_that_do_not_fill_the_size_are_refused(counts):
    with pytest.raises(ValueError, match=r"x: run lengths of mask 0 do not fill 4 x 4 pixels"):
        RunLengths((4, 4), [counts], "x").decode()


@pytest.mark.parametrize("size", [(0, 4), (-1, 4), (1 << 20, 1 << 20)])
def test_sizes_that_are_none_or_fill_the_memory_are_refused(size):
    with pytest.raises(ValueError, match=r"are none, or too many to be decoded"):
        RunLengths(size, ["0"], "x").decode()


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16])
def test_semantic_masks_come_back(kind):
    semantic = torch.randint(-1 if kind == torch.int16 else 0, 255, (7, 5)).to(kind)
    found = SemanticPng(to_png(semantic), "x").decode()
    assert torch.equal(found, semantic) and found.dtype == kind


def test_a_damaged_semantic_mask_is_told():
    with pytest.raises(ValueError, match="x: its semantic mask cannot be decoded"):
        SemanticPng(to_png(torch.zeros(50, 50, dtype=torch.uint8))[:60], "x").decode()
