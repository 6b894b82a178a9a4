"""ONNX files: a graph exported by torch.export, checked in onnxruntime against PyTorch, in float32 and with 8-bit weights."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from mae_vlm.convert import outlet
from mae_vlm.convert.embedder import Embedder
from mae_vlm.convert.graph import Graph, graph_of
from mae_vlm.convert.program import described, exported, held_against
from mae_vlm.data.collection import open_collection
from mae_vlm.data.sources.base import Place

FILE, SMALL = "model.onnx", "model.int8.onnx"
_OPSET = 20
_MOST = 512  # pictures that the 8-bit model is held against float32 on


def export(source: str, out: Path, weights: str, head: str | None, int8: bool, data: Path | None, force: bool) -> list[str]:
    """Write ``model.onnx`` (and ``model.int8.onnx``) into ``out``; what was checked and measured, a line each.

    Raises:
        ValueError: onnx is not installed, a head without a graph, other numbers than PyTorch's, or an ``out`` that is there.
    """
    _installed()
    graph, lines = graph_of(source, weights, head), list[str]()

    def write(folder: Path) -> list[Path]:
        lines.append(checked(graph, to_file(graph, folder / FILE)))
        if int8:
            lines.extend(compared(graph, folder / FILE, quantised(folder / FILE, folder / SMALL), data))
        (folder / "config.json").write_text(json.dumps(described(graph), indent=2) + "\n")
        return sorted(folder.iterdir())

    files = outlet.deliver(out, write, force)
    return [*lines, *(f"wrote {file}" for file in files), f'open it:  onnxruntime.InferenceSession("{out / FILE}")']


def _installed() -> None:
    try:
        for package in ("onnx", "onnxruntime", "onnxscript"):
            import_module(package)
    except ImportError as problem:
        raise ValueError(f"--to onnx needs the package {problem.name}: pip install 'mae_vlm[onnx]'") from problem


def to_file(graph: Graph, file: Path) -> Path:
    """Write the graph as an ONNX file with its weights inside."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            exported(graph), dynamo=True, opset_version=_OPSET, input_names=["pixels"], output_names=list(graph.outputs), verbose=False
        )
        assert program is not None
        program.save(str(file), external_data=False)
    return file


def checked(graph: Graph, file: Path) -> str:
    """Hold the file against PyTorch: see :func:`mae_vlm.convert.program.held_against`."""
    return held_against(graph, session(file), file.name, "onnxruntime")


def session(file: Path) -> Callable[[Tensor], list[Tensor]]:
    """A function that runs an ONNX file on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    opened = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda pixels_BCHW: [torch.from_numpy(one) for one in opened.run(None, {"pixels": pixels_BCHW.numpy()})]


def quantised(file: Path, target: Path) -> Path:
    """The same with the weights of its matrix products in 8 bits, activations scaled as they come (onnxruntime's dynamic quantisation)."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root, model = logging.getLogger(), onnx.load(str(file))
    del model.graph.value_info[:]  # sizes that the exporter's own passes have made untrue; they are inferred anew
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a step beforehand that these graphs do not need
    quantize_dynamic(model, str(target), weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True)
    root.setLevel(level)
    return target


def compared(graph: Graph, file: Path, small: Path, data: Path | None) -> list[str]:
    """Lines of a table: size, time of a picture and deviation of both files; of a classifier also its score on labelled pictures."""
    pixels_BCHW, labels = _pictures(graph, data)
    rows, reference = [], None
    for place in (file, small):
        run = session(place)
        run(pixels_BCHW[:8])
        start = time.perf_counter()
        found = torch.cat([run(part)[0] for part in torch.split(pixels_BCHW, 8)])
        reference = found if reference is None else reference
        rows.append(
            [
                place.name,
                f"{place.stat().st_size / 1e6:.1f} MB",
                f"{1e3 * (time.perf_counter() - start) / len(found):.1f} ms",
                *_scores(graph, found, reference, labels),
            ]
        )
    seen = f"{len(pixels_BCHW)} {'pictures of ' + str(data) if data else 'pictures of noise'}"
    head = ["", "size", "a picture", "deviation", *(["same answer"] if graph.names else []), *(["top-1"] if labels else [])]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return [
        f"float32 and int8 on {seen}, on this CPU:",
        *("  " + "  ".join(one.ljust(width) for one, width in zip(row, widths, strict=True)) for row in [head, *rows]),
    ]


def _scores(graph: Graph, found: Tensor, reference: Tensor, labels: list[str | None]) -> list[str]:
    """Deviation as a share of that of the numbers; share of same answers; share of right ones."""
    cells = [f"{float((found - reference).square().mean().sqrt() / reference.std()):.1e}"]
    if graph.outputs[0] == "logits":
        cells.append(f"{float((found.argmax(1) == reference.argmax(1)).float().mean()):.1%}")
        if labels:
            told = [
                graph.names[number] == label for number, label in zip(found.argmax(1).tolist(), labels, strict=True) if label is not None
            ]
            cells.append(f"{sum(told) / len(told):.1%}")
    elif graph.names:
        cells.append("-")
    return cells


def _pictures(graph: Graph, data: Path | None) -> tuple[Tensor, list[str | None]]:
    """Held-out pictures of a collection from 0 to 1 ``[B, C, H, W]``, evenly out of all of it, and their labels where the graph knows them.

    Raises:
        ValueError: no pictures there.
    """
    space = graph.encoder.space
    if data is None:
        return torch.rand(16, space.channels, space.height, space.width, generator=torch.Generator().manual_seed(0)), []
    parts = open_collection(Place(str(data))).parts
    source = next(parts[name] for name in ("val", "test", *parts) if name in parts)
    samples = [source[number] for number in range(0, len(source), max(1, len(source) // _MOST))][:_MOST]
    prepare = Embedder(graph.encoder).prepare
    pixels_BCHW = torch.stack([prepare(sample.image) for sample in samples]).float() / 255
    named = source.classes or []
    labels = [None if sample.label is None else named[sample.label] for sample in samples]
    known = graph.outputs == ("logits",) and any(label in graph.names for label in labels)
    return pixels_BCHW, [label if label in graph.names else None for label in labels] if known else []
