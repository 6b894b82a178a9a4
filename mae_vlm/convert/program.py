"""Programs of torch.export: a graph as one .pt2 file that PyTorch alone runs, checked against the modules it was made of."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae_vlm.convert import outlet
from mae_vlm.convert.graph import Graph, graph_of

FILE = "model.pt2"
_CLOSE = 1e-4  # of the largest number that PyTorch gives, and at least of 1


def export(source: str, out: Path, weights: str, head: str | None, force: bool) -> list[str]:
    """Write ``model.pt2`` into ``out``, and in config.json what goes in and comes out; what was checked, a line each.

    Raises:
        ValueError: a head without a graph, other numbers than PyTorch's when read back, or an ``out`` that is there.
    """
    graph, lines = graph_of(source, weights, head), list[str]()

    def write(folder: Path) -> list[Path]:
        torch.export.save(exported(graph), folder / FILE)
        lines.append(held_against(graph, opened(folder / FILE), FILE, "torch.export"))
        (folder / "config.json").write_text(json.dumps(described(graph), indent=2) + "\n")
        return sorted(folder.iterdir())

    files = outlet.deliver(out, write, force)
    return [*lines, *(f"wrote {file}" for file in files), f'open it:  torch.export.load("{out / FILE}").module()']


def opened(file: Path) -> Callable[[Tensor], Sequence[Tensor]]:
    """A function that runs a program out of a file."""
    run: Callable[[Tensor], Sequence[Tensor]] = torch.export.load(file).module()
    return run


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


def held_against(graph: Graph, run: Callable[[Tensor], Sequence[Tensor]], name: str, where: str) -> str:
    """Compare what ``run`` gives with PyTorch, at other numbers of pictures and, where it allows, another size; a line on how near it is.

    Raises:
        ValueError: they differ by more than 1e-4.
    """
    space, worst = graph.encoder.space, 0.0
    draw = torch.Generator().manual_seed(0)
    sizes = [(1, space.height, space.width), (5, space.height, space.width)]
    sizes += [(2, space.height + space.patch, space.width + 2 * space.patch)] if graph.sized else []
    for count, height, width in sizes:
        pixels_BCHW = torch.rand(count, space.channels, height, width, generator=draw)
        with torch.no_grad():
            expected, found = graph.module(pixels_BCHW), run(pixels_BCHW)
        for output, ours, theirs in zip(graph.outputs, expected, found, strict=True):
            difference = float((ours - theirs).abs().max()) / max(1.0, float(ours.abs().max()))
            worst = max(worst, difference)
            if difference > _CLOSE:
                raise ValueError(
                    f"{output} of {name} differs from PyTorch's by {difference:.1e} at {count} x {height} x {width}; nothing is written"
                )
    told = "any height and width of whole patches" if graph.sized else f"{space.height} x {space.width} pixels"
    return f"{name}: {', '.join(graph.outputs)}; any number of pictures, {told}; within {worst:.1e} of PyTorch in {where}"
