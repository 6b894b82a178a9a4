"""What 8-bit weights cost a fine-tuned run, and what they gain: ``python -m tools.onnx_scores RUN [RUN ...]``.

Each run's classifier, segmenter or detector answers the same validation pictures of its own data three times: in PyTorch, and as ONNX files
in onnxruntime with float32 and with 8-bit weights. A line for each: the head's own score (val/top1, val/miou, val/box_map50), pictures per
second (the median of ``--rounds`` rounds of one batch, in turn), and the size of the weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from mae_vlm.convert import native, onnx
from mae_vlm.convert.graph import Graph, graph_of
from mae_vlm.data.module import Data
from mae_vlm.heads.base import Head
from mae_vlm.heads.dense import Dense
from mae_vlm.heads.parts import box_answers
from mae_vlm.heads.parts.dense_detections import detect
from mae_vlm.types import Answer, Batch

SCORES = {"Classify": "top1", "Segment": "miou", "Dense": "box_map50"}
Run = Callable[[Tensor], Sequence[Tensor]]


def batches(run: Path, head: Head, size: int) -> list[Batch]:
    """The validation pictures of a run's own data, with the targets that its head asks for."""
    options = dict(native.read(run)[0]["data"])
    data = Data(**options | {"batch_size": size, "num_workers": 0})
    data.wants = head.wants
    data.setup("validate")
    return list(data.val_dataloader())


def pixels(batch: Batch) -> Tensor:
    """Its pictures as graphs take them: float from 0 to 1."""
    largest = torch.iinfo(batch.images_BCHW.dtype).max
    return batch.images_BCHW.float() / largest


def measure(head: Head, metrics: MetricCollection, found: Sequence[Tensor], batch: Batch) -> None:
    """Add what a graph gave of a batch to its head's metrics."""
    if not isinstance(head, Dense):
        head.measure(metrics, Answer({"logits": found[0]}), batch)
        return
    frames = [target.frame for target in batch.targets]
    rows = zip(found[1], found[0], frames, strict=True)
    detections = [detect(scores_ML, boxes_M4, frame, head.most, head.overlap) for scores_ML, boxes_M4, frame in rows]
    box_answers.measure(metrics, detections, batch)


@torch.no_grad()
def score(head: Head, run: Run, pictures: list[Batch]) -> float:
    """The head's best-known metric of what ``run`` says of the pictures."""
    metrics = head.metrics()
    for batch in pictures:
        measure(head, metrics, run(pixels(batch)), batch)
    name = SCORES[type(head).__name__]
    return float(metrics.compute()[name])


@torch.no_grad()
def rates(runs: dict[str, Run], pixels_BCHW: Tensor, rounds: int) -> dict[str, float]:
    """Pictures per second of each; rounds in turn, so that a busy machine is equally busy for all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run(pixels_BCHW)
            if number:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: len(pixels_BCHW) / statistics.median(taken) for name, taken in seconds.items()}


def rows(run: Path, size: int, rounds: int) -> Iterator[dict[str, Any]]:
    """A row for PyTorch, for ONNX in float32 and for ONNX with 8-bit weights.

    Raises:
        ValueError: no fine-tuned run of one of these heads.
    """
    graph = graph_of(str(run))
    if graph.head is None:
        raise ValueError(f"{run} has no head of {', '.join(SCORES)}; give a fine-tuned run")
    pictures, head = batches(run, graph.head, size), graph.head
    with tempfile.TemporaryDirectory() as folder:
        runs, sizes = _runs(graph, Path(folder))
        speed = rates(runs, pixels(pictures[0]), rounds)
        for name, one in runs.items():
            told = {"run": run.parent.name, "in": name, "metric": SCORES[type(head).__name__]}
            count = sum(int(batch.real_B.sum()) for batch in pictures)
            yield told | {"score": score(head, one, pictures), "pictures": count, "images_per_s": speed[name], "megabytes": sizes[name]}


def _runs(graph: Graph, folder: Path) -> tuple[dict[str, Run], dict[str, float]]:
    whole = onnx.to_file(graph, folder / onnx.FILE)
    small = onnx.quantised(whole, folder / onnx.SMALL)
    weights = sum(value.numel() * value.element_size() for value in graph.module.parameters())
    runs: dict[str, Run] = {"PyTorch float32": graph.module.eval()}
    runs |= {"onnxruntime float32": onnx.session(whole), "onnxruntime int8": onnx.session(small)}
    sizes = [weights, whole.stat().st_size, small.stat().st_size]
    return runs, {name: size / 1e6 for name, size in zip(runs, sizes, strict=True)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="fine-tuned runs")
    parser.add_argument("--batch", type=int, default=8, help="pictures at a time")
    parser.add_argument("--rounds", type=int, default=20, help="rounds that are timed")
    options = parser.parse_args(arguments)
    for run in options.runs:
        for row in rows(run, options.batch, options.rounds):
            print(json.dumps({name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}), flush=True)


if __name__ == "__main__":
    main()
