"""What heads say of every picture, as files: what ``predict`` leaves behind for a fine-tuned run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BasePredictionWriter

from mae_vlm import storage
from mae_vlm.callbacks import predicted_objects, predicted_scores, predicted_words
from mae_vlm.callbacks.predicted_drawings import write_drawing
from mae_vlm.callbacks.predicted_maps import write_map, write_names
from mae_vlm.callbacks.predicted_panoptic import FOLDER, join_panoptic, write_panoptic
from mae_vlm.types import Batch, Prediction

_MARK = "unfinished.json"
_SIZED = ["id", "height", "width"]  # columns of a part whose answers are files of their own


class Predictions(BasePredictionWriter):
    """Writes into ``out``, of several heads with the head's name in front:

    - ``predictions.csv`` (of several heads ``<head>.csv``): of a classifier id, class, score, then the next best classes with theirs; of a
      detector a row for each object whose score reaches the threshold that validation found best; of a head that speaks id, caption, score,
      or id, question, answer, score.
    - ``detections.json`` and ``images.json``: all objects in COCO's format, and the pictures and categories that its numbers stand for.
    - ``maps``: a class for every pixel, as PNG, and their names.
    - ``panoptic`` and ``panoptic.json``: segments, as COCO has them (of several heads in a folder of the head's name).
    - ``drawn``: with ``draw``, the pictures with the answer on them.

    Each process writes a part of its own, batch by batch; at the end they are put together. Started again after a kill with the same
    ``source`` (checkpoint and pictures), it goes on: what is written is not computed again. Pictures that cannot be read are left out,
    and named in ``broken.csv``.

    Args:
        out: the folder.
        source: what the answers come from, in words; parts of another source are thrown away.
        draw: write ``drawn`` too.
    """

    def __init__(self, out: Path, source: str, draw: bool = False) -> None:
        super().__init__(write_interval="batch")
        self.out, self.source, self.draw = out, source, draw
        self.files: list[Path] = []
        self.count = 0
        self._open: dict[str, Any] = {}

    def on_predict_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self.out.mkdir(parents=True, exist_ok=True)
            self._take_over()
        trainer.strategy.barrier()
        done = [set[str]().union(*map(_ids, self._parts(head))) for head in pl_module.heads]
        pl_module.answered = set.intersection(*done) if done else set()
        trainer.strategy.barrier()  # all have read before one writes

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: Any,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        for head, answers in prediction.items():
            fresh = [one for one in answers if one.id not in pl_module.answered and one.embedding is None]
            if fresh:
                self._answers(head, fresh, pl_module, batch, trainer.global_rank)
        if batch.broken:
            self._write(f"broken.{trainer.global_rank}.part.csv", ["id", "reason"], [list(one) for one in batch.broken])

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        for file in self._open.values():
            file.close()
        self._open = {}
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            for head, kind in pl_module.heads.items():
                self._join(head, kind, len(pl_module.heads) == 1)
            self._join_table("broken", "broken.csv")
            (self.out / _MARK).unlink()

    # -- while they come

    def _answers(self, head: str, answers: list[Prediction], module: Any, batch: Batch, rank: int) -> None:
        """Write what one head says of some pictures: files first, then the rows, which say that a picture is done."""
        kind, alone = module.heads[head], len(module.heads) == 1
        images = dict(zip(batch.ids, batch.images_BCHW, strict=True))
        frames = {id: target.frame for id, target in zip(batch.ids, batch.targets, strict=False)}
        for one in answers:
            if one.semantic is not None:
                write_map(self.out / _name(head, "maps", alone), one)
            if one.segments is not None:
                write_panoptic(self.out if alone else self.out / head, one, kind.ids)
            if self.draw:
                write_drawing(self.out / _name(head, "drawn", alone), one, images[one.id], frames.get(one.id), kind)
        if answers[0].segments is None and answers[0].object_scores is not None:
            lines = "".join(predicted_objects.line(one, frames[one.id], kind.ids) + "\n" for one in answers)
            self._append(f"{head}.{rank}.part.jsonl", lines)
        elif answers[0].said is not None:
            self._append(f"{head}.{rank}.part{predicted_words.SUFFIX}", "".join(map(predicted_words.line, answers)))
        elif answers[0].scores is not None:
            rows = [predicted_scores.row(one, kind) for one in answers]
            self._write(f"{head}.{rank}.part.csv", predicted_scores.header(kind), rows)
        else:
            rows = [[one.id, str(frames[one.id].height), str(frames[one.id].width)] for one in answers]
            self._write(f"{head}.{rank}.part.csv", _SIZED, rows)

    def _write(self, name: str, titles: list[str], rows: list[list[str]]) -> None:
        place = self.out / name
        fresh = name not in self._open and (not place.is_file() or not place.stat().st_size)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([titles, *rows] if fresh else rows)
        self._append(name, text.getvalue())

    def _append(self, name: str, text: str) -> None:
        if name not in self._open:
            self._open[name] = (self.out / name).open("a", newline="", encoding="utf-8")
        self._open[name].write(text)
        self._open[name].flush()

    # -- before and after

    def _parts(self, head: str) -> list[Path]:
        return sorted(self.out.glob(f"{head}.*.part.*"))

    def _take_over(self) -> None:
        """Keep the parts of an earlier, unfinished run of the same source, cut after their last whole row; throw away any others."""
        mark, parts = self.out / _MARK, self._parts("*")
        told = json.dumps({"source": self.source} | ({"draw": True} if self.draw else {}))
        same = mark.is_file() and mark.read_text() == told
        for part in parts:
            if same:
                content = part.read_bytes()
                part.write_bytes(content[: content.rfind(b"\n") + 1])
            else:
                part.unlink()
        for left in [] if same else self.out.rglob(f"{FOLDER}/**/*.json"):  # entries that no part tells of any more
            left.unlink()
        storage.write_whole(mark, lambda file: file.write(told.encode()))

    def _join(self, head: str, kind: Any, alone: bool) -> None:
        """Put a head's parts together and take them away."""
        parts = self._parts(head)
        table = "predictions.csv" if alone else f"{head}.csv"
        found, listed = self.out / _name(head, "detections.json", alone), self.out / _name(head, "images.json", alone)
        for old in (found, listed, self.out / table):
            old.unlink(missing_ok=True)  # of an earlier run
        if parts and parts[0].suffix == ".jsonl":
            self.count = max(self.count, predicted_objects.write_coco(parts, found, listed, self.out / table, kind))
            self.files += [found, listed, self.out / table]
            for part in parts:
                part.unlink()
        elif parts and parts[0].suffix == predicted_words.SUFFIX:
            self.count = max(self.count, predicted_words.write_table(parts, self.out / table, kind))
            self.files.append(self.out / table)
            for part in parts:
                part.unlink()
        elif parts and _whole_rows(parts[0])[0] == _SIZED:
            self._join_files(head, kind, alone, parts)
        else:
            self.count = max(self.count, self._join_table(head, table))

    def _join_files(self, head: str, kind: Any, alone: bool, parts: list[Path]) -> None:
        """What belongs to a head's maps or segments as a whole."""
        sizes = {id: (int(height), int(width)) for part in parts for id, height, width in _whole_rows(part)[1:]}
        maps, place = self.out / _name(head, "maps", alone), self.out if alone else self.out / head
        if maps.is_dir():
            write_names(maps, kind.names)
            self.files.append(maps)
        if (place / FOLDER).is_dir():
            self.files.append(join_panoptic(place, kind.names, kind.ids, sizes))
        self.count = max(self.count, len(sizes))
        for part in parts:
            part.unlink()

    def _join_table(self, start: str, name: str) -> int:
        """How many rows the joined table has, without the header."""
        parts = self._parts(start)
        target = self.out / name
        if not parts:
            target.unlink(missing_ok=True)  # of an earlier run
            return 0
        tables = [_whole_rows(part) for part in parts]
        rows = {one[0]: one for table in tables for one in table[1:]}  # by id: a picture may have been written twice
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([tables[0][0], *rows.values()])
        storage.write_whole(target, lambda file: file.write(text.getvalue().encode()))
        for part in parts:
            part.unlink()
        self.files.append(target)
        return len(rows)


def _name(head: str, name: str, alone: bool) -> str:
    return name if alone else f"{head}_{name}"


def _ids(part: Path) -> set[str]:
    """The pictures that a part of answers tells of."""
    if part.suffix == predicted_words.SUFFIX:
        return predicted_words.ids(part)
    return predicted_objects.ids(part) if part.suffix == ".jsonl" else {row[0] for row in _whole_rows(part)[1:]}


def _whole_rows(file: Path) -> list[list[str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.reader(opened))
