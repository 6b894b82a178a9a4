"""A folder of pictures into an index, or what has come, gone or changed there into one that exists."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mae_vlm import storage
from mae_vlm.convert import native
from mae_vlm.data.sources.image_folder import ImageFolder
from mae_vlm.data.split import name_hashes
from mae_vlm.index import structure
from mae_vlm.index.lock import alone
from mae_vlm.index.model import STATED, WEIGHTS, Model, is_run
from mae_vlm.index.parts import Known, Parts, write_table
from mae_vlm.index.pictures import batches, stamps
from mae_vlm.index.stored import Origin, Place, Stored
from mae_vlm.types import Broken

_ROWS, _SECONDS = 4096, 30.0  # of a part: what a kill can lose
_TELL = 5.0  # seconds between two lines of progress


@dataclass(frozen=True)
class Options:
    """How pictures are read and held: see ``python -m mae_vlm index --help``."""

    kind: str = "auto"
    bits: str = "float16"
    batch: int = 64
    workers: int = 0
    carry: bool = True


@dataclass(frozen=True)
class Outcome:
    """What became of it: pictures in the index, new ones among them, rows of gone or changed ones, and what could not be read."""

    stored: Stored
    new: int
    gone: int
    broken: list[Broken]


def origin_of(model: Model, weights: str) -> Origin:
    """The run at ``weights``, as an index remembers it."""
    ours = is_run(weights)
    return Origin(str(Path(weights).absolute()) if ours else weights, native.step_of(weights) if ours else 0, model.checksum())


def index(source: ImageFolder, model: Model, origin: Origin, out: Path, options: Options, say: Callable[[str], None]) -> Outcome:
    """Make or continue the index ``out`` of the pictures of ``source``.

    What an earlier, killed call has computed is kept, and so are pictures whose file is as it was (size and time of writing).

    Raises:
        ValueError: ``out`` holds something else, was made by another run, or is being written by another process; or there is nothing to
            index.
        OSError: it cannot be written.
    """
    structure.library()
    place = Place(out)
    place.check_free()
    with alone(out, say):
        return _index(source, model, origin, place, options, say)


def _index(source: ImageFolder, model: Model, origin: Origin, place: Place, options: Options, say: Callable[[str], None]) -> Outcome:
    _begin(place, model, origin, options.carry)
    parts, now = Parts(place.parts, model.width), stamps(source)
    names = name_hashes(source.names())
    order = np.argsort(names, kind="stable")
    gone = parts.keep(Known(names[order], now[order]))
    todo = np.flatnonzero(~parts.known().has(names, now)).astype(np.int64)
    if kept := len(source) - len(todo):
        say(f"{kept:,} of {len(source):,} pictures are indexed already")
    broken = _compute(source, model, parts, todo, now, options, say)
    _tell_broken(place.folder, broken)
    before = place.stored()
    if before is not None and before.content == parts.known().checksum() and before.is_as(options.kind, options.bits):
        stored = before if before.root == str(source.root.absolute()) else _moved(place, before, source)
    else:
        say("building the structure that is asked")
        stored = _built(place, parts, source, model, options)
    return Outcome(stored, len(todo) - len(broken), gone, broken)


def _begin(place: Place, model: Model, origin: Origin, carry: bool) -> None:
    before = place.origin()
    if before is not None and before.checksum != origin.checksum:
        raise ValueError(f"{place.folder} was made by {before}, not by {origin}; give that run, or another --out")
    if carry and not (place.model / STATED).is_file():
        model.write(place.model)
    if not carry and (place.model / WEIGHTS).is_file():
        storage.discard(place.model)
    if before is None:
        place.begin(origin)


def _compute(
    source: ImageFolder,
    model: Model,
    parts: Parts,
    todo: NDArray[np.int64],
    now: NDArray[np.int64],
    options: Options,
    say: Callable[[str], None],
) -> list[Broken]:
    """Place all pictures ``todo``; returns those that could not be read."""
    waiting, broken, progress = _Waiting(parts), list[Broken](), _Progress(len(todo), say)
    names = source.names()
    for read in batches(source, todo, options.batch, model.size, model.form, options.workers):
        broken += read.broken
        if read.numbers:
            found = model.of_images(read.images_BCHW).numpy().astype(np.float16)
            waiting.add([names[number].as_py() for number in read.numbers], now[read.numbers].tolist(), found)
        progress.done(len(read.numbers) + len(read.broken))
    waiting.write()
    return broken


class _Waiting:
    """Rows that are not yet in a part."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._empty()

    def _empty(self) -> None:
        self.names: list[bytes] = []
        self.stamps: list[int] = []
        self.vectors: list[NDArray[np.float16]] = []
        self.since = time.monotonic()

    def add(self, names: list[bytes], stamps: list[int], vectors: NDArray[np.float16]) -> None:
        self.names += names
        self.stamps += stamps
        self.vectors.append(vectors)
        if len(self.names) >= _ROWS or time.monotonic() - self.since >= _SECONDS:
            self.write()

    def write(self) -> None:
        if self.names:
            self.parts.add(self.names, self.stamps, np.concatenate(self.vectors))
        self._empty()


class _Progress:
    """A line now and then: how many pictures are placed, how fast, and the time left."""

    def __init__(self, pictures: int, say: Callable[[str], None]) -> None:
        self.pictures, self.say, self._done = pictures, say, 0
        self._began = self._told = time.monotonic()

    def done(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._told >= _TELL and self._done:
            self._told, rate = now, self._done / (now - self._began)
            minutes, seconds = divmod(round((self.pictures - self._done) / rate), 60)
            self.say(f"{self._done:,} of {self.pictures:,} pictures, {rate:.0f} a second, {minutes}:{seconds:02d} left")


def _built(place: Place, parts: Parts, source: ImageFolder, model: Model, options: Options) -> Stored:
    names = parts.names()
    mean, deviation = ([], []) if model.reads else _moments(parts)
    vectors = partial(_unit, parts, mean, deviation)
    built = structure.build(vectors, model.width, len(names), options.kind, options.bits)
    before = place.stored()
    version = 1 if before is None else before.version + 1
    faiss = structure.library()
    storage.write_whole(place.vectors(version), lambda file: faiss.write_index(built.index, faiss.PyCallbackIOWriter(file.write)))
    write_table(place.names(version), pa.table({"name": names}))
    root, content = str(source.root.absolute()), parts.known().checksum()
    told = Stored(root, len(names), model.width, built.kind, options.bits, built.found, version, content, mean, deviation)
    place.finish(told)
    return told


def _moved(place: Place, before: Stored, source: ImageFolder) -> Stored:
    """The same index of the same pictures in another folder."""
    told = Stored(**(before.__dict__ | {"root": str(source.root.absolute())}))
    place.finish(told)
    return told


def _moments(parts: Parts) -> tuple[list[float], list[float]]:
    """Mean and deviation of each number, of all vectors: without them cosines of plain features are all near 1."""
    count, total, squares = 0, np.zeros(parts.width), np.zeros(parts.width)
    for rows in parts.vectors():
        count += len(rows)
        total += rows.sum(0, dtype=np.float64)
        squares += np.square(rows, dtype=np.float64).sum(0)
    mean = total / max(1, count)
    deviation = np.sqrt(np.maximum(squares / max(1, count) - mean**2, 0)) + 1e-6
    return mean.tolist(), deviation.tolist()


def placed(rows: NDArray[np.float32], mean: list[float], deviation: list[float]) -> NDArray[np.float32]:
    """Vectors as an index compares them: centred and scaled where it does that, of unit length."""
    if mean:
        rows = ((rows - np.array(mean)) / np.array(deviation)).astype(np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32)


def _unit(parts: Parts, mean: list[float], deviation: list[float]) -> Iterator[NDArray[np.float32]]:
    return (placed(rows, mean, deviation) for rows in parts.vectors())


def _tell_broken(out: Path, broken: list[Broken]) -> None:
    file, text = out / "broken.csv", io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["name", "reason"], *broken])
    if broken:
        storage.write_whole(file, lambda opened: opened.write(text.getvalue().encode("utf-8", "surrogateescape")))
    else:
        file.unlink(missing_ok=True)
