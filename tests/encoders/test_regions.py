"""Promises of mae_vlm.encoders.regions and its detectors. Letters as there."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
import yaml
from captioned import a_batch, a_text, an_image, stirred

from mae_vlm.convert.region_detector import OfRun
from mae_vlm.data.framing import Fit, Zoom
from mae_vlm.data.reader import Reader
from mae_vlm.data.sampler import Draw
from mae_vlm.data.sources.base import Source
from mae_vlm.data.transforms import Augment, Resize
from mae_vlm.encoders.faster_rcnn import FasterRcnn
from mae_vlm.encoders.features import Features
from mae_vlm.encoders.fusion.additive import Additive
from mae_vlm.encoders.fusion.coattention import CoAttention
from mae_vlm.encoders.fusion.cross import CrossAttention
from mae_vlm.encoders.fusion.early import Early
from mae_vlm.encoders.fusion.late import Late
from mae_vlm.encoders.regions import Detector, Regions
from mae_vlm.encoders.teacher import copied
from mae_vlm.encoders.towers import Towers
from mae_vlm.encoders.vit import Vit
from mae_vlm.heads.dense import Dense
from mae_vlm.learners.optim import AdamW
from mae_vlm.learners.pretrain import Pretrainer
from mae_vlm.objectives.matching import Matching
from mae_vlm.tokens.masking import RandomMask
from mae_vlm.types import CHECKPOINT_FORMAT, CHECKPOINT_KEY, Batch, Frame, Sample, Target

FUSIONS = {
    "cross": partial(CrossAttention, depth=2, heads=2),
    "early": Early,
    "late": Late,
    "additive": Additive,
    "coattention": partial(CoAttention, depth=3, heads=2),
}
with_each = pytest.mark.parametrize("fusion", FUSIONS)
CAPTIONS = [("a red square",), ("a ring and a blue circle",), ("a star",)]
BOXES = [[(2.0, 3.0, 20.0, 30.0), (8.0, 8.0, 16.0, 16.0)], [(0.0, 0.0, 32.0, 32.0)], []]


def boxed(boxes=BOXES, captions=CAPTIONS) -> Batch:
    whole = Frame(32, 32, 0, 0, 32, 32, 32, 32)
    targets = [Target(whole, torch.tensor(some).view(-1, 4)) for some in boxes]
    return replace(a_batch(captions), targets=targets)


def a_house(fusion: str = "cross", most: int | None = 3, **options) -> Towers:
    torch.manual_seed(0)
    regions = None if most is None else partial(Regions, most=most, **options)
    house = Towers(an_image(), a_text(), FUSIONS[fusion], regions).double()
    stirred(house.image), stirred(house.text), stirred(house.fusion)
    return (house if most is None else stirred_regions(house)).eval()


def stirred_regions(house: Towers) -> Towers:
    torch.manual_seed(5)
    for weight in house.regions.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return house


def matched_weights(house: Towers, other: Towers) -> Towers:
    """``house`` with all weights that ``other`` has too."""
    house.load_state_dict(other.state_dict(), strict=False)
    return house


@with_each
def test_places_without_a_region_change_nothing(fusion):
    house = a_house(fusion, most=2)
    wider = matched_weights(a_house(fusion, most=7), house)
    one, more = (Features(towers, boxed()).fused for towers in (house, wider))
    for name in ("pooled_BD", "tokens_BTD", "patches_BND"):
        left, right = getattr(one, name), getattr(more, name)
        assert (left is None) == (right is None)
        if left is not None:
            assert left.shape == right.shape and torch.allclose(left, right, rtol=0, atol=1e-12)


@with_each
def test_a_picture_without_a_box_is_seen_as_without_regions(fusion):
    house = a_house(fusion)
    plain = matched_weights(a_house(fusion, most=None), house)
    with_regions, without = (Features(towers, boxed()).fused.pooled_BD for towers in (house, plain))
    difference_B = (with_regions - without).abs().amax(1)
    assert difference_B[2] < 1e-12 and difference_B[:2].min() > 1e-4
    nothing = Features(house, boxed([[], [], []])).fused.pooled_BD
    assert torch.allclose(nothing, without, rtol=0, atol=1e-12)


@with_each
def test_each_region_counts_for_its_own_picture(fusion):
    house = a_house(fusion)
    moved = [[BOXES[0][0], (20.0, 8.0, 28.0, 16.0)], *BOXES[1:]]
    before, after = (Features(house, boxed(boxes)).fused.pooled_BD for boxes in (BOXES, moved))
    changed_B = (after - before).abs().amax(1)
    assert changed_B[0] > 1e-5 and changed_B[1:].max() < 1e-12


def test_a_region_is_the_mean_of_the_map_under_its_box():
    """Of a map that grows evenly to the right and down, that is its value in the box's middle."""
    regions = Regions(a_house(), most=3).double()
    down, across = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")  # patches of 8 pixels
    ramp_N = (across * 8 + 4) + 100 * (down * 8 + 4)
    boxes_BK4 = torch.tensor([[(8.0, 8.0, 20.0, 26.0), (5.0, 4.0, 11.0, 10.0), (0.0, 0.0, 0.0, 0.0)]])
    pooled_BKD = regions._pooled(ramp_N.double().view(1, 16, 1).expand(-1, -1, 16), boxes_BK4)
    assert torch.allclose(pooled_BKD[0, :2, 0], torch.tensor([14.0 + 1700, 8.0 + 700]).double(), rtol=0, atol=1e-5)


def test_place_and_feature_both_count_and_what_is_not_there_is_zero():
    house = a_house(most=4)
    features = Features(house, boxed())
    region_BKD = features.seen.tokens_BTD[:, -4:]
    assert region_BKD.ne(0).any(-1).tolist() == [[True, True, False, False], [True, False, False, False], [False] * 4]
    flat = torch.ones_like(features.full.tokens_BTD)  # the same everywhere: the place alone tells boxes apart
    tokens = house.regions(flat, *features.boxed)
    assert (tokens[0, 0] - tokens[0, 1]).abs().max() > 0.1
    other = house.regions(features.full.tokens_BTD.flip(0), *features.boxed)
    assert (other[0, 0] - region_BKD[0, 0]).abs().max() > 1e-3


def test_of_too_many_boxes_the_largest_are_taken_and_crowds_never():
    house = a_house(most=2)
    batch = boxed([[(0.0, 0.0, 4.0, 4.0), (0.0, 0.0, 30.0, 30.0), (1.0, 1.0, 31.0, 31.0), (5.0, 5.0, 20.0, 20.0)], [], []])
    batch.targets[0].crowds = torch.tensor([False, True, False, False])
    boxes_BK4, real_BK = house.regions.boxed(batch)
    assert boxes_BK4[0].tolist() == [[1, 1, 31, 31], [5, 5, 20, 20]] and real_BK.tolist() == [[True, True], [False, False], [False, False]]


class _Spotted(Source):
    """A dark picture with a bright rectangle, and its box."""

    BOX = (10, 20, 34, 44)

    def __len__(self) -> int:
        return 1

    def name(self, index: int) -> str:
        return "spotted"

    def __getitem__(self, index: int) -> Sample:
        image_CHW = torch.zeros(3, 60, 80, dtype=torch.uint8)
        left, top, right, bottom = self.BOX
        image_CHW[:, top:bottom, left:right] = 255
        return Sample("spotted", image_CHW, boxes=torch.tensor([self.BOX]).float(), classes=torch.zeros(1, dtype=torch.int64))


TRANSFORMS = [Augment((32, 32), (0.5, 1.0), flip=0.5), Resize((32, 32)), Zoom((32, 32), (0.5, 2.0)), Fit((32, 32))]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda one: type(one).__name__)
def test_boxes_follow_the_crop_and_the_flip(transform):
    """The bright pixels of the prepared picture and the box that the regions are pooled from are at one place."""
    house, mirrored, seen = a_house(most=1), set(), 0
    for epoch in range(12):
        batch = Reader(_Spotted(), transform, seed=0, channels=3, wants=frozenset({"boxes"}))[[Draw(0, epoch, True)]]
        bright = (batch.images_BCHW[0, 0] > 127).nonzero()
        (box,), (real,) = (one[0] for one in house.regions.boxed(batch))
        if not len(bright) or not real:
            continue
        seen += 1
        mirrored.add(batch.targets[0].frame.mirrored)
        (top, left), (bottom, right) = bright.amin(0).tolist(), (bright.amax(0) + 1).tolist()
        assert torch.allclose(box, torch.tensor([left, top, right, bottom]).float(), rtol=0, atol=1.5), (epoch, box, bright)
    assert seen >= 6 and len(mirrored) == (2 if isinstance(transform, Augment | Zoom) else 1)


def learner(most: int | None = 3, chunks: int = 1, teacher: float | None = None, **options) -> Pretrainer:
    torch.manual_seed(0)
    regions = None if most is None else partial(Regions, most=most, **options)
    part = {"matching": Matching}
    made = Pretrainer(an_image(), RandomMask(0.75), part, AdamW(), a_text(), FUSIONS["cross"], chunks, teacher, regions=regions)
    return stirred(made.double()).train()


@pytest.mark.parametrize("boxes", [BOXES, [[], [], []]], ids=["some", "none"])
def test_every_weight_has_a_gradient_with_and_without_boxes(boxes):
    model, batch = learner(), boxed(boxes)
    model.shares.begin([model._counts(model.features(batch))], 1, torch.device("cpu"))
    model.training_step(batch, 0).backward()
    gradients = [weight.grad for weight in model.towers.regions.parameters()]
    assert all(one is not None and one.isfinite().all() for one in gradients)
    assert all((one != 0).any() for one in gradients) == bool(boxes[0])


def test_the_data_is_asked_for_boxes_where_no_detector_finds_them():
    assert learner().wants == {"boxes"} and learner(most=None).wants == set() == learner(detector=_Same()).wants
    with pytest.raises(ValueError, match="takes the data's own boxes, and it delivers none"):
        learner().features(a_batch(CAPTIONS)).seen  # noqa: B018


def test_regions_cost_what_so_many_more_tokens_cost():
    plain, more = learner(most=None), learner(most=8)
    fusion = plain.towers.fusion
    assert more.flops_per_image() - plain.flops_per_image() == 3 * (fusion.flops(24, 17 + 8) - fusion.flops(24, 17))


class _Same(Detector):
    """Says the same of every picture, the surest first."""

    def __init__(self) -> None:
        self.layer, self.asked = torch.nn.Linear(2, 2), 0

    def boxes(self, batch):
        self.asked += 1
        return [torch.tensor([[8.0, 8.0, 16.0, 16.0], [0.0, 0.0, 32.0, 32.0], [4.0, 4.0, 8.0, 8.0]]) for _ in range(len(batch))]


def test_a_detector_is_no_part_of_weights_and_copies_and_is_asked_once_for_the_teacher_too():
    found = _Same()
    house = a_house(most=2, detector=found)
    own = {name for name in house.state_dict() if name.startswith("regions.")}
    assert own == {f"regions.{part}.{kind}" for part in ("feature", "place", "norm") for kind in ("weight", "bias")}
    assert deepcopy(house).regions.detector is found
    features = Features(house, a_batch(CAPTIONS), teacher=copied(house))
    assert torch.equal(features.seen.tokens_BTD, features.teacher().seen.tokens_BTD) and found.asked == 1
    assert features.boxed[0][1].tolist() == [[8, 8, 16, 16], [0, 0, 32, 32]]


DENSE = {"classes": 2, "width": 16, "layers": 1, "most": 5}


def a_run(folder, heads=("find",), kind="dense.Dense", **options):
    """A checkpoint of a detector of 16 x 24 pixels, by hand: its towers and head."""
    torch.manual_seed(0)
    sizes = {"width": 32, "depth": 1, "heads": 4, "patch": 8, "image_size": [16, 24]}
    towers = Towers(Vit(**sizes))
    head = Dense(towers, **DENSE).eval()
    stated = {name: {"class_path": f"mae_vlm.heads.{kind}", "init_args": DENSE | options} for name in heads}
    encoder = {"class_path": "mae_vlm.encoders.vit.Vit", "init_args": sizes}
    config = {"model": {"class_path": "mae_vlm.learners.finetune.Finetuner", "init_args": {"encoder": encoder, "heads": stated}}}
    state = {f"towers.{name}": value for name, value in towers.state_dict().items()}
    state |= {f"heads.{name}.{key}": value for name in heads for key, value in head.state_dict().items()}
    torch.save({CHECKPOINT_KEY: {"format": CHECKPOINT_FORMAT, "config": yaml.safe_dump(config)}, "state_dict": state}, folder / "made.ckpt")
    return folder / "made.ckpt", towers, head


@pytest.mark.filterwarnings("ignore:.*checksums are lost")
def test_a_detector_of_a_run_says_what_its_head_says_in_pixels_of_the_pictures(tmp_path):
    file, towers, head = a_run(tmp_path)
    images = torch.randint(0, 256, (3, 3, 16, 24), dtype=torch.uint8)
    batch = replace(boxed([[], [], []]), images_BCHW=images, real_B=torch.tensor([True, True, False]))
    whole = Frame(16, 24, 0, 0, 16, 24, 16, 24)
    batch.targets = [Target(whole)] * 3
    with torch.no_grad():
        told = head.predictions(head(Features(towers.eval(), batch)), replace(batch, real_B=torch.ones(3, dtype=torch.bool)))
    found = OfRun(str(file), score=0.0).boxes(batch)
    assert len(found) == 3 and all(len(one) == 5 for one in found)
    for mine, theirs in zip(found, told, strict=True):
        torch.testing.assert_close(mine, theirs.boxes, rtol=0, atol=1e-4)
    larger = replace(batch, images_BCHW=images.repeat_interleave(4, 2).repeat_interleave(2, 3))  # 64 x 48
    scaled = OfRun(str(file), score=0.0).boxes(larger)
    assert all(one[:, 2].max() <= 48 and one[:, 3].max() <= 64 and one.max() > 24 for one in scaled)
    assert sum(map(len, OfRun(str(file), score=0.99).boxes(batch))) == 0


@pytest.mark.filterwarnings("ignore:.*checksums are lost")
def test_a_run_that_finds_no_boxes_is_told_in_one_line(tmp_path):
    file, *_ = a_run(tmp_path, ("one", "other"))
    for options, says in (
        ({"run": file}, "has 2 that find boxes: one, other; name one"),
        ({"run": file, "head": "third"}, "has 0 that find boxes; name one"),
        ({"run": file, "score": 1.0}, "score 1.0 of the regions' detector given"),
    ):
        with pytest.raises(ValueError, match=says) as told:
            OfRun(**{key: str(value) if key == "run" else value for key, value in options.items()})
        assert "\n" not in str(told.value)
    assert len(OfRun(str(file), head="other").boxes(a_batch(CAPTIONS))) == 3


MOBILE = "fasterrcnn_mobilenet_v3_large_320_fpn"


def test_torchvisions_detector_reads_a_local_file_and_says_what_torchvision_says(tmp_path):
    from torchvision.models import detection

    torch.manual_seed(0)
    model = getattr(detection, MOBILE)(weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=256).eval()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    batch = a_batch(CAPTIONS)
    detector = FasterRcnn(str(tmp_path / "weights.pth"), MOBILE, score=0.05, side=64)
    model.roi_heads.score_thresh = 0.05
    with torch.no_grad():
        wanted = model(list(batch.images_BCHW / 255))
    found = detector.boxes(batch)
    assert sum(map(len, found)) > 0
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs["boxes"])
        assert theirs["scores"].diff().max() <= 0  # the surest first
    with pytest.raises(ValueError, match="don't fit torchvision's fasterrcnn_resnet50_fpn"):
        FasterRcnn(str(tmp_path / "weights.pth"))


def test_mistakes_are_told_in_one_line(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    for act, says in (
        (lambda: a_house(most=0), "most 0, bins 3 given, allowed is 1 or more of both"),
        (lambda: Towers(an_image(), a_text(), None, Regions), "this needs a fusion tower"),
        (lambda: FasterRcnn(str(tmp_path / "none.pth")), "no such file; save its state_dict there, nothing is downloaded"),
        (lambda: FasterRcnn(str(tmp_path / "other.pth")), "hold no Faster R-CNN of torchvision's"),
        (lambda: FasterRcnn("x.pth", "resnet50"), "architecture 'resnet50', score 0.2, side 800 given: allowed are fasterrcnn_"),
    ):
        with pytest.raises(ValueError, match=says) as told:
            act()
        assert "\n" not in str(told.value)
