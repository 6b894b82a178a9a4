"""ONNX files: a graph exported by torch.export, checked in onnxruntime against PyTorch, in float32 and with 8-bit weights."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_vlm.convert import outlet
from mae_vlm.convert.embedder import Embedder
from mae_vlm.convert.graph import Graph, graph_of
from mae_vlm.data.collection import open_collection
from mae_vlm.data.sources.base import Place

FILE, SMALL = "model.onnx", "model.int8.onnx"
_CLOSE = 1e-4  # of the largest number that PyTorch gives, and at least of 1
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


def described(graph: Graph) -> dict[str, Any]:
    """What who uses the file must know: input, outputs, classes."""
    space = graph.encoder.space
    size: list[Any] = [f"multiple of {space.patch}"] * 2 if graph.sized else [space.height, space.width]
    told = {
        "input": "pixels: float32 from 0 to 1, not normalised",
        "shape": ["batch", space.channels, *size],
        "trained_at": [space.height, space.width],
    }
    return told | {"outputs": list(graph.outputs)} | ({"label_names": list(graph.names)} if graph.names else {})


def exported(graph: Graph) -> torch.export.ExportedProgram:
    """The graph as torch.export gives it: any number of pictures, and any grid of patches where it allows."""
    space = graph.encoder.space
    batch = torch.export.Dim("batch", min=1, max=4096)
    shape: dict[int, Any] = {0: batch}
    if graph.sized:
        shape |= {2: space.patch * torch.export.Dim("rows", min=2, max=512), 3: space.patch * torch.export.Dim("columns", min=2, max=512)}
    # sizes that are no special case of any other
    sides = [max(3, space.rows) * space.patch, (max(3, space.columns) + 1) * space.patch] if graph.sized else [space.height, space.width]
    pixels_BCHW = torch.rand(3, space.channels, *sides)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(graph.module.eval(), (pixels_BCHW,), dynamic_shapes=(shape,), strict=False)


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
    """Hold the file against PyTorch, at another number of pictures and, where it allows, another size; a line that says how near it is.

    Raises:
        ValueError: they differ by more than 1e-4.
    """
    space, run, worst = graph.encoder.space, session(file), 0.0
    draw = torch.Generator().manual_seed(0)
    sizes = [(1, space.height, space.width), (5, space.height, space.width)]
    sizes += [(2, space.height + space.patch, space.width + 2 * space.patch)] if graph.sized else []
    for count, height, width in sizes:
        pixels_BCHW = torch.rand(count, space.channels, height, width, generator=draw)
        with torch.no_grad():
            expected = graph.module(pixels_BCHW)
        for name, ours, theirs in zip(graph.outputs, expected, run(pixels_BCHW), strict=True):
            difference = float((ours - theirs).abs().max()) / max(1.0, float(ours.abs().max()))
            worst = max(worst, difference)
            if difference > _CLOSE:
                raise ValueError(
                    f"{name} of {file.name} differs from PyTorch's by {difference:.1e} at {count} x {height} x {width}; nothing is written"
                )
    told = "any height and width of whole patches" if graph.sized else f"{space.height} x {space.width} pixels"
    return f"{file.name}: {', '.join(graph.outputs)}; any number of pictures, {told}; within {worst:.1e} of PyTorch in onnxruntime"


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
