"""Pairs of pictures on their way to a batch."""

from __future__ import annotations

import pytest
import torch

from mae_vlm.data.collate import collate
from mae_vlm.data.mirrored import mirrored
from mae_vlm.data.module import Data
from mae_vlm.data.reader import Reader
from mae_vlm.data.sampler import Draw
from mae_vlm.data.sources.base import Source
from mae_vlm.data.sources.parts.sample_json import from_json, to_json
from mae_vlm.data.sources.reasoning_scenes import ScenePairs
from mae_vlm.data.transforms import Augment, Resize
from mae_vlm.types import Question, Sample


def read(source, transform, count=4):
    reader = Reader(source, transform, seed=0, channels=3)
    return reader, reader[[Draw(index, 0, True) for index in range(count)]]


def test_a_batch_holds_both_pictures_as_they_are():
    source = ScenePairs(4, side=32)
    _, batch = read(source, Resize((32, 32)))
    assert torch.equal(batch.images_BCHW, torch.stack([source[i].image for i in range(4)]))
    assert torch.equal(batch.partner_BCHW, torch.stack([source[i].partner for i in range(4)]))
    assert torch.equal(batch[1:3].partner_BCHW, batch.partner_BCHW[1:3])


def test_a_mirrored_pair_changes_places_and_so_do_the_words():
    source = ScenePairs(4, side=32)
    _, batch = read(source, Augment((32, 32), (1.0, 1.0), ratio=(1.0, 1.0), flip=1.0))
    assert torch.equal(batch.images_BCHW, torch.stack([source[i].partner for i in range(4)]).flip(3))
    assert torch.equal(batch.partner_BCHW, torch.stack([source[i].image for i in range(4)]).flip(3))
    for number, questions in enumerate(batch.questions):
        sides = [(here.text.split()[1], there.text.split()[1]) for here, there in zip(questions, source[number].questions, strict=True)]
        assert set(sides) <= {("left", "right"), ("right", "left")}


def test_both_pictures_are_cropped_by_the_same_key():
    class Twins(Source):
        def __len__(self):
            return 4

        def name(self, index):
            return str(index)

        def __getitem__(self, index):
            pixels = torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))
            return Sample(str(index), pixels, partner=pixels.clone())

    _, batch = read(Twins(), Augment((32, 32), (0.3, 0.6), flip=0.5))
    assert torch.equal(batch.images_BCHW, batch.partner_BCHW)


def test_a_single_picture_among_pairs_stands_beside_itself_and_single_ones_have_no_partner():
    reader, _ = read(ScenePairs(2, side=32), Resize((32, 32)), 2)
    pair = reader._prepare(0, 0)
    single = pair._replace(partner_CHW=None)
    batch = collate([pair, single], [Draw(0, 0, True)] * 2)
    assert torch.equal(batch.partner_BCHW, torch.stack([pair.partner_CHW, single.pixels_CHW]))
    assert collate([single], [Draw(0, 0, True)]).partner_BCHW is None


def test_a_mirrored_question_keeps_its_candidates():
    asked = Question("what is left?", ("the right one",), ("the right one", "the left one"), rationale=True)
    (found,) = mirrored(Sample("a", b"", questions=(asked,))).questions
    assert found == Question("what is right?", ("the left one",), ("the left one", "the right one"), rationale=True)


def test_the_data_module_delivers_pairs_epoch_after_epoch_whatever_it_keeps():
    data = Data(path="scenes://pairs?train=8&val=4&side=32", batch_size=4, num_workers=0, flip=0.0, crop_scale=(1.0, 1.0))
    assert {"questions", "partner"} <= data.inspect().known
    loader = data.val_dataloader()
    first, again = next(iter(loader)), next(iter(loader))
    assert first.partner_BCHW.shape == (4, 3, 32, 32) and torch.equal(first.partner_BCHW, again.partner_BCHW)
    assert next(iter(data.train_dataloader())).partner_BCHW.shape == (4, 3, 32, 32)


def test_shards_keep_candidates_and_refuse_pairs():
    asked = Question("what?", ("a cat",), ("a cat", "a dog"), rationale=True)
    told = Sample("a", b"", questions=(asked, Question("why?", ("so",))))
    assert from_json(to_json(told), "a", b"")["questions"] == told.questions
    with pytest.raises(ValueError, match="a is a pair of pictures, which shards have no place for"):
        to_json(Sample("a", b"", partner=b""))
