"""Promises of mae_vlm.heads.parts.box_metrics and box_matching."""

from __future__ import annotations

import contextlib
import io

import pytest
import torch
from several_processes import on_processes

from mae_vlm.heads.parts.box_matching import best_threshold, hits
from mae_vlm.heads.parts.box_metrics import BoxPrecision, Truth, box_tables

NOTHING = (torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))


def truth(boxes, classes, crowds=None) -> Truth:
    count = len(classes)
    boxes_G4 = torch.tensor(boxes, dtype=torch.float32).reshape(count, 4)
    return Truth(boxes_G4, torch.tensor(classes, dtype=torch.int64), torch.tensor(crowds or [False] * count, dtype=torch.bool))


def some_pictures(count: int = 21, classes: int = 3):
    """Objects, crowds among them, and detections that are near them, of another class, or nowhere; some pictures have none of either."""
    draw = torch.Generator().manual_seed(0)
    found, true = [], []
    for number in range(count):
        objects = number % 5
        corner_G2, size_G2 = torch.rand(objects, 2, generator=draw) * 200, 5 + torch.rand(objects, 2, generator=draw) * 120
        boxes_G4 = torch.cat([corner_G2, corner_G2 + size_G2], 1)
        classes_G = torch.randint(0, classes, (objects,), generator=draw)
        true.append(Truth(boxes_G4, classes_G, torch.rand(objects, generator=draw) < 0.15))
        near_N4 = boxes_G4.repeat(3, 1) + 9 * torch.randn(3 * objects, 4, generator=draw)
        kinds_N = torch.where(torch.rand(3 * objects, generator=draw) < 0.8, classes_G.repeat(3), 0)
        lost_N2 = torch.rand(number % 4, 2, generator=draw) * 200
        boxes_N4 = torch.cat([near_N4, torch.cat([lost_N2, lost_N2 + 30], 1)])
        scores_N, order_N = torch.rand(len(boxes_N4), generator=draw).sort(descending=True)
        kinds_N = torch.cat([kinds_N, torch.zeros(len(lost_N2), dtype=torch.int64)])
        found.append((boxes_N4[order_N], scores_N, kinds_N[order_N]))
    return found, true


def measured(found, true, classes: int = 3, **more):
    metric = BoxPrecision(classes, **more)
    metric.update(list(range(100, 100 + len(found))), found, true)
    return metric.compute()


def numbers(results) -> dict[str, float]:
    return {name: float(value) for name, value in results.items() if isinstance(value, torch.Tensor) and value.ndim == 0}


def perfect(true: list[Truth]):
    """Each object found, in an order that is not that of the objects; of crowds one in the middle."""
    return [(one.boxes_G4.flip(0), torch.linspace(0.9, 0.5, len(one.classes_G)), one.classes_G.flip(0)) for one in true]


def test_perfect_detections_score_one_with_crowds_and_pictures_without_objects():
    true = [
        truth([[0, 0, 10, 10], [5, 5, 30, 40]], [0, 2]),
        truth([], []),
        truth([[0, 0, 50, 50], [20, 20, 30, 30], [22, 22, 24, 24]], [2, 2, 0], [True, False, False]),
    ]
    found = [*perfect(true[:2]), (torch.tensor([[20.0, 20, 30, 30], [22, 22, 24, 24], [3, 3, 9, 9]]), torch.tensor([0.9, 0.6, 0.5]),
                                  torch.tensor([2, 0, 2]))]  # fmt: skip
    results = measured(found, true)
    assert all(results[name] == 1 for name in ("box_map", "box_map50", "box_map75", "box_mar", "box_f1", "box_precision", "box_recall"))
    assert results["box_classes"][:, 0].nan_to_num(-1).tolist() == [1, -1, 1], "a class without objects is no zero"
    assert results["box_classes"][:, 2].tolist() == [2, 0, 2], "a crowd is no object"


def test_three_hundred_detections_count_up_to_the_hundredth():
    corner_N2 = torch.cartesian_prod(torch.arange(20.0), torch.arange(15.0)) * 20
    boxes_N4 = torch.cat([corner_N2, corner_N2 + 10], 1)
    scores_N, kinds_N = torch.linspace(1, 0.1, 300), torch.zeros(300, dtype=torch.int64)
    assert measured([(boxes_N4, scores_N, kinds_N)], [truth(boxes_N4[:100].tolist(), [0] * 100)])["box_map"] == 1
    late = measured([(boxes_N4, scores_N, kinds_N)], [truth(boxes_N4[100:101].tolist(), [0])])
    assert late["box_map"] == late["box_mar"] == 0


def test_nothing_to_find_is_zero_and_leaves_the_threshold_as_it_was():
    kept = []
    for found, true in ((NOTHING, truth([], [])), (perfect([truth([[0, 0, 9, 9]], [0])])[0], truth([], []))):
        results = measured([found], [true], keep=kept.append)
        assert results["box_map"] == results["box_f1"] == 0 and not any("small" in name for name in results)
        assert box_tables(results, ["a", "b", "c"])["boxes"][1] == ["a", "0", "", ""]
    missed = measured([NOTHING], [truth([[0, 0, 9, 9]], [0])], keep=kept.append)
    assert missed["box_map"] == missed["box_recall"] == 0 and kept == []
    assert numbers(BoxPrecision(3).compute())["box_map"] == 0, "no picture at all"


def test_a_table_has_a_row_for_each_class_and_curves_are_of_each():
    found, true = some_pictures()
    results = measured(found, true)
    rows = box_tables(results, ["a", "b", "c"])["boxes"]
    assert rows[0] == ["class", "objects", "box_map", "box_map50"] and [row[0] for row in rows[1:]] == ["a", "b", "c"]
    assert sum(int(row[1]) for row in rows[1:]) == sum(int((~one.crowds_G).sum()) for one in true)
    assert sum(float(row[2]) for row in rows[1:]) / 3 == pytest.approx(float(results["box_map"]), abs=1e-4)
    precision_LR, recall_LR = results["precision_recall"]
    assert precision_LR.shape == recall_LR.shape == (3, 101)
    assert precision_LR.mean().item() == pytest.approx(results["box_map50"].item(), abs=1e-6)


def coco_files(found, true):
    images = [{"id": number, "height": 400, "width": 400, "file_name": str(number)} for number in range(len(true))]
    annotations, results = [], []
    for number, (one, truths) in enumerate(zip(found, true, strict=True)):
        for box, kind, crowd in zip(*(part.tolist() for part in truths), strict=True):
            left, top, right, bottom = box
            sides = {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": kind, "iscrowd": int(crowd)} | sides)
        for box, score, kind in zip(*(part.tolist() for part in one), strict=True):
            sides = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            results.append({"image_id": number, "category_id": kind, "score": score, "bbox": sides})
    return {"images": images, "annotations": annotations, "categories": [{"id": k, "name": str(k)} for k in range(3)]}, results


def test_average_precision_is_that_of_cocos_own_program():
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    found, true = some_pictures(60)
    annotated, detected = coco_files(found, true)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = coco.COCO()
        theirs.dataset = annotated
        theirs.createIndex()
        judged = cocoeval.COCOeval(theirs, theirs.loadRes(detected), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    ours = measured(found, true)
    names = ["box_map", "box_map50", "box_map75", "box_map_small", "box_map_medium", "box_map_large"]
    assert 0.05 < judged.stats[0] < 0.95
    assert [float(ours[name]) for name in names] == pytest.approx(judged.stats[:6].tolist(), abs=1e-6)
    assert float(ours["box_mar"]) == pytest.approx(judged.stats[8], abs=1e-6)
    right = {image["image_id"]: image for image in judged.evalImgs if image and image["aRng"] == [0, 1e10]} and sum(
        int(((image["dtMatches"][0] > 0) & ~image["dtIgnore"][0].astype(bool)).sum())
        for image in judged.evalImgs
        if image and image["aRng"] == [0, 1e10]
    )
    rows = [(torch.cat([b, s[:, None], k[:, None]], 1), torch.cat([t, c[:, None], w[:, None]], 1))
            for (b, s, k), (t, c, w) in zip(found, true, strict=True)]  # fmt: skip
    assert sum(int(hits(*row)[0].sum()) for row in rows) == right > 20


# -- the threshold


def test_the_threshold_is_that_of_the_highest_f1_of_all():
    draw = torch.Generator().manual_seed(4)
    scores_N = (torch.rand(80, generator=draw) * 20).round() / 20  # many are equal
    right_N = torch.rand(80, generator=draw) < scores_N
    best = best_threshold(scores_N, right_N, 60)
    every = []
    for threshold in torch.linspace(0.0, 1.0, 401).tolist():
        shown_N = scores_N >= threshold
        every.append(2 * (right_N & shown_N).sum().item() / (shown_N.sum().item() + 60))
    assert best.f1 == pytest.approx(max(every))
    shown_N = scores_N >= best.threshold
    assert best.precision == pytest.approx(right_N[shown_N].float().mean().item())
    assert best.recall == pytest.approx((right_N & shown_N).sum().item() / 60)
    assert not (scores_N == best.threshold).any(), "between scores, not on one"


def test_an_object_is_found_once_and_what_lies_in_a_crowd_is_neither_right_nor_wrong():
    true_G6 = torch.tensor([[0, 0, 10, 10, 1, 0], [50, 50, 100, 100, 1, 1], [50, 50, 60, 60, 1, 0]], dtype=torch.float32)
    found_N6 = torch.tensor(
        [[0, 0, 10, 9, 0.9, 1], [0, 0, 10, 10, 0.8, 1], [0, 0, 10, 10, 0.7, 0], [70, 70, 80, 80, 0.6, 1], [95, 50, 120, 60, 0.5, 1],
         [50, 50, 60, 60, 0.4, 1]]
    )  # fmt: skip
    right_N, aside_N = hits(found_N6, true_G6)
    assert right_N.tolist() == [True, False, False, False, False, True]
    assert aside_N.tolist() == [False, False, False, True, False, False]


def test_the_threshold_is_handed_over_when_it_is_computed():
    kept = []
    found, true = some_pictures()
    results = measured(found, true, keep=kept.append)
    assert kept == [pytest.approx(float(results["box_threshold"]))] and 0 < kept[0] < 1


# -- several processes


def deal(rank_count: int) -> dict[str, float]:
    import torch.distributed as dist

    dist.init_process_group("gloo")
    found, true = some_pictures()
    metric, rank = BoxPrecision(3), dist.get_rank()
    for number in range(rank, len(found), rank_count):
        metric.update([100 + number], found[number : number + 1], true[number : number + 1])
    results = numbers(metric.compute())
    alone = BoxPrecision(3)
    alone.update(*([7], [NOTHING], [truth([[0, 0, 9, 9]], [0])]) if rank else ([], [], []))
    results |= {f"alone_{name}": value for name, value in numbers(alone.compute()).items()}
    dist.destroy_process_group()
    return results


def test_two_processes_measure_as_one_also_where_one_has_nothing():
    """21 pictures: one process has 11 of them, the other 10."""
    one = numbers(measured(*some_pictures()))
    alone = numbers(measured([NOTHING], [truth([[0, 0, 9, 9]], [0])]))
    for results in on_processes(2, deal, 2):
        assert {name: value for name, value in results.items() if not name.startswith("alone")} == one
        assert {name.removeprefix("alone_"): value for name, value in results.items() if name.startswith("alone")} == alone
