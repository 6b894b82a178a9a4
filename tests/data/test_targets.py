"""Boxes, masks and semantic maps move along with the pixels, and find the way back to the original picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mae_vlm.data.framing import Fit, Zoom
from mae_vlm.data.module import Data
from mae_vlm.data.sources.scenes import Scenes
from mae_vlm.data.targets import nearest, outward, target_of
from mae_vlm.data.transforms import Augment, Resize, apply, filled
from mae_vlm.types import Sample

ALL = frozenset({"boxes", "masks", "semantic"})


def marked(height: int, width: int, box: tuple[int, int, int, int]) -> Sample:
    """A black picture with one white rectangle, which is its one object."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    left, top, right, bottom = box
    image[:, top:bottom, left:right] = 255
    mask = image[:1] > 0
    return Sample("one", image, boxes=torch.tensor([box], dtype=torch.float32), classes=torch.tensor([2]), masks=mask)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(20, 90), st.integers(20, 90), st.tuples(st.floats(0, 0.6), st.floats(0, 0.6), st.floats(0.2, 0.4), st.floats(0.2, 0.4)),
    st.sampled_from(["fit", "zoom", "augment", "resize"]), st.integers(0, 10_000),
)  # fmt: skip
def test_boxes_and_masks_lie_where_the_pixels_of_the_object_are(height, width, place, kind, key):
    left, top = int(place[0] * width), int(place[1] * height)
    box = (left, top, left + max(4, int(place[2] * width)), top + max(4, int(place[3] * height)))
    sample = marked(height, width, box)
    transforms = {"fit": Fit((64, 48)), "zoom": Zoom((64, 48), (0.4, 2.5)), "augment": Augment((64, 48)), "resize": Resize((64, 48))}
    crop = transforms[kind].plan(height, width, key)
    pixels = filled(apply(sample.image, crop), crop)
    assert pixels.shape == (3, 64, 48)
    target = target_of(sample, crop, height, width, ALL)
    shown = pixels[0, : crop.height, : crop.width] > 127
    if not len(target.boxes):
        assert shown.float().mean() < 0.5
        return
    white = torch.nonzero(shown)
    if len(white) < 30:
        return
    (low_y, low_x), (high_y, high_x) = white.amin(0).tolist(), (white.amax(0) + 1).tolist()
    stretch = 1 + max(crop.height / crop.window.height, crop.width / crop.window.width)  # resampling blurs by a source pixel
    assert np.allclose(target.boxes[0].numpy(), [low_x, low_y, high_x, high_y], atol=stretch)
    wrong = (target.masks[0, : crop.height, : crop.width] != shown).float().mean()
    assert wrong <= 4 * stretch * (high_x - low_x + high_y - low_y) / shown.numel()
    assert not target.masks[0, crop.height :].any() and not target.masks[0, :, crop.width :].any()


@settings(max_examples=100, deadline=None)
@given(st.integers(10, 200), st.integers(10, 200), st.integers(0, 10_000), st.booleans())
def test_what_a_head_says_goes_back_to_the_pixels_of_the_original(height, width, key, zoom):
    crop = (Zoom((64, 80), (0.5, 2.0)) if zoom else Fit((64, 80))).plan(height, width, key)
    frame = crop.frame(height, width)
    window = frame.top, frame.left, frame.top + frame.window_height, frame.left + frame.window_width
    inside = torch.tensor([[window[1] + 1.0, window[0] + 2.0, window[3] - 1.0, window[2] - 1.0]])
    assert torch.allclose(frame.outward(frame.inward(inside)), inside, atol=1e-3)
    assert frame.outward(torch.tensor([[-1e4, -1e4, 1e4, 1e4]])).tolist() == [[0, 0, width, height]]


def test_a_map_enlarged_and_taken_back_is_itself():
    values = torch.arange(30 * 20).view(30, 20)
    for mirrored in (False, True):
        crop = Zoom((96, 96), (1.0, 1.0), flip=float(mirrored)).plan(30, 20, 3)
        frame = crop.frame(30, 20)
        assert frame.mirrored == mirrored
        assert torch.equal(outward(nearest(values, frame), frame), values)


def test_an_object_that_the_crop_leaves_little_of_is_gone_and_its_class_with_it():
    sample = marked(100, 100, (0, 0, 10, 10))
    sample.boxes = torch.cat([sample.boxes, torch.tensor([[50.0, 50, 90, 90]])])
    sample.classes, sample.masks = torch.tensor([2, 5]), torch.cat([sample.masks, torch.zeros_like(sample.masks)])
    sample.masks[1, 50:90, 50:90] = True
    crop = Resize((50, 50)).plan(100, 100)
    crop = crop._replace(window=crop.window._replace(top=9, left=9, height=80, width=80))
    target = target_of(sample, crop, 100, 100, ALL)
    assert target.classes.tolist() == [5] and len(target.masks) == 1 == len(target.crowds)


def test_a_picture_without_objects_has_none_and_one_without_knowledge_says_so():
    crop = Fit((32, 32)).plan(20, 10)
    empty = Sample("empty", torch.zeros(3, 20, 10, dtype=torch.uint8), boxes=torch.zeros(0, 4), classes=torch.zeros(0, dtype=torch.int64))
    unknown = Sample("unknown", torch.zeros(3, 20, 10, dtype=torch.uint8))
    painted = frozenset({"boxes", "painted"})
    for sample, ground in ((empty, 0), (unknown, -1)):
        target = target_of(sample, crop, 20, 10, painted)
        assert target.boxes.shape == (0, 4) and target.masks is None
        assert (target.semantic[:, :16] == ground).all() and (target.semantic[:, 16:] == -1).all()


def test_semantic_maps_keep_their_numbers_and_unknown_and_padding_are_minus_one():
    sample = Sample("map", torch.zeros(3, 8, 4, dtype=torch.uint8), semantic=torch.tensor([[0, 3, 255, 1]], dtype=torch.uint8).expand(8, 4))
    target = target_of(sample, Fit((16, 16)).plan(8, 4), 8, 4, frozenset({"semantic"}))
    assert target.semantic[0].tolist() == [0, 0, 3, 3, -1, -1, 1, 1] + [-1] * 8 and target.boxes is None


def test_painted_maps_put_small_objects_on_large_ones_and_know_nothing_under_crowds():
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, 2:4, 2:4], masks[1, 1:6, 1:6], masks[2, 7, :] = True, True, True
    boxes = torch.tensor([[2.0, 2, 4, 4], [1, 1, 6, 6], [0, 7, 8, 8]])
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    sample = Sample("p", image, boxes=boxes, classes=torch.tensor([4, 0, 1]), masks=masks, crowds=torch.tensor([False, False, True]))
    map_HW = target_of(sample, Fit((8, 8)).plan(8, 8), 8, 8, frozenset({"painted"})).semantic
    assert map_HW[2, 2] == 5 and map_HW[1, 1] == 1 and map_HW[0, 0] == 0 and (map_HW[7] == -1).all()


def test_many_large_masks_are_decoded_some_at_a_time(monkeypatch):
    whole = marked(40, 40, (5, 5, 20, 20))
    asked = []

    class Late:
        def decode(self, objects=slice(None)):
            asked.append(objects)
            return whole.masks.expand(100, -1, -1)[objects]

    many = Sample("many", whole.image, boxes=whole.boxes.expand(100, 4), classes=torch.zeros(100, dtype=torch.int64), masks=Late())
    monkeypatch.setattr("mae_vlm.data.targets._AT_ONCE", 40 * 40 * 16)
    target = target_of(many, Fit((40, 40)).plan(40, 40), 40, 40, ALL - {"semantic"})
    assert len(asked) == 7 and torch.equal(target.masks, whole.masks.expand(100, -1, -1))


def test_the_data_module_gives_targets_only_where_they_are_wanted():
    data = Data(scenes=12, val_scenes=6, image_size=(64, 48), batch_size=6, num_workers=0)
    assert next(iter(data.train_dataloader())).targets == []
    data = Data(scenes=12, val_scenes=6, image_size=(64, 48), batch_size=6, num_workers=0)
    data.wants = frozenset({"boxes", "semantic"})
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batch = next(iter(loader))
        assert batch.images_BCHW.shape == (6, 3, 64, 48) and len(batch.targets) == 6
        assert all(len(target.boxes) == len(target.classes) and target.masks is None for target in batch.targets)
        assert all(target.semantic.shape == (64, 48) for target in batch.targets)
    assert data.inspect().semantic_classes[0] == "background" and len(data.inspect().semantic_classes) == 1 + len(Scenes(1).classes)
    moved = batch.to("cpu")
    assert torch.equal(moved.targets[0].boxes, batch.targets[0].boxes) and len(moved[:2].targets) == 2


def test_cached_pictures_keep_their_targets(tmp_path):
    data = Data(scenes=8, val_scenes=4, image_size=32, batch_size=8, num_workers=0, flip=0.0, zoom=(1.0, 1.0))
    data.wants = frozenset({"boxes", "masks"})
    first, second = (next(iter(data.val_dataloader())) for _ in range(2))
    for one, other in zip(first.targets, second.targets, strict=True):
        assert torch.equal(one.boxes, other.boxes) and torch.equal(one.masks, other.masks)


def test_a_head_that_needs_what_the_collection_does_not_hold_is_told(tmp_path):
    from PIL import Image

    for number in range(12):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / f"{number}.png")
    data = Data(str(tmp_path), batch_size=4, num_workers=0)
    data.wants = frozenset({"boxes"})
    with pytest.raises(ValueError, match=r"needs boxes, which .* does not hold: pictures alone"):
        data.setup("fit")


@pytest.mark.parametrize("zoom", [(0.0, 1.0), (2.0, 1.0)])
def test_zoom_out_of_range_is_refused(zoom):
    with pytest.raises(ValueError, match="0 < smallest <= largest"):
        Data(zoom=zoom)
