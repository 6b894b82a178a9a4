"""What a classifier says of every picture, as a table: what ``predict`` leaves behind for a fine-tuned run."""

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
from mae_vlm.types import Batch, Prediction

_MOST = 5  # classes told of a picture
_MARK = "unfinished.json"


class Predictions(BasePredictionWriter):
    """Writes ``predictions.csv`` (of several heads ``<head>.csv``) into ``out``: id, class, score, then the next best classes with theirs.

    Each process writes a part of its own, batch by batch; at the end they are put together. Started again after a kill with the same
    ``source`` (checkpoint and pictures), it goes on: what is written is not computed again. Pictures that cannot be read are left out,
    and named in ``broken.csv``.

    Args:
        out: the folder.
        source: what the answers come from, in words; parts of another source are thrown away.
    """

    def __init__(self, out: Path, source: str) -> None:
        super().__init__(write_interval="batch")
        self.out, self.source = out, source
        self.files: list[Path] = []
        self.count = 0
        self._open: dict[str, Any] = {}

    def on_predict_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self.out.mkdir(parents=True, exist_ok=True)
            self._take_over()
        trainer.strategy.barrier()
        parts = {file: _whole_rows(file) for file in sorted(self.out.glob("*.part.csv"))}
        heads = list(pl_module.heads)
        done = [{row[0] for file, rows in parts.items() if file.name.startswith(f"{head}.") for row in rows[1:]} for head in heads]
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
            kind = pl_module.heads[head]
            rows = [row(one, kind) for one in answers if one.id not in pl_module.answered]
            if rows:
                self._write(f"{head}.{trainer.global_rank}.part.csv", header(kind), rows)
        if batch.broken:
            self._write(f"broken.{trainer.global_rank}.part.csv", ["id", "reason"], [list(one) for one in batch.broken])

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        for file in self._open.values():
            file.close()
        self._open = {}
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            for head in [*pl_module.heads, "broken"]:
                self._join(head, "predictions" if head != "broken" and len(pl_module.heads) == 1 else head)
            (self.out / _MARK).unlink()

    def _take_over(self) -> None:
        """Keep the parts of an earlier, unfinished run of the same source, cut after their last whole row; throw away any others."""
        mark, parts = self.out / _MARK, sorted(self.out.glob("*.part.csv"))
        same = mark.is_file() and mark.read_text() == json.dumps({"source": self.source})
        for part in parts:
            if same:
                content = part.read_bytes()
                part.write_bytes(content[: content.rfind(b"\n") + 1])
            else:
                part.unlink()
        storage.write_whole(mark, lambda file: file.write(json.dumps({"source": self.source}).encode()))

    def _write(self, name: str, titles: list[str], rows: list[list[str]]) -> None:
        file = self._open.get(name)
        if file is None:
            place = self.out / name
            fresh = not place.is_file() or not place.stat().st_size
            file = self._open[name] = place.open("a", newline="", encoding="utf-8")
            rows = [titles, *rows] if fresh else rows
        csv.writer(file, lineterminator="\n").writerows(rows)
        file.flush()

    def _join(self, head: str, name: str) -> None:
        parts = sorted(self.out.glob(f"{head}.*.part.csv"))
        target = self.out / f"{name}.csv"
        if not parts:
            target.unlink(missing_ok=True)  # of an earlier run
            return
        tables = [_whole_rows(part) for part in parts]
        rows = {one[0]: one for table in tables for one in table[1:]}  # by id: a picture may have been written twice
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([tables[0][0], *rows.values()])
        storage.write_whole(target, lambda file: file.write(text.getvalue().encode()))
        for part in parts:
            part.unlink()
        self.files.append(target)
        self.count = max(self.count, len(rows) if head != "broken" else 0)


def header(head: Any) -> list[str]:
    """The columns for a head."""
    if head.classes == 1:
        return ["id", "value"]
    more = range(2, min(_MOST, head.classes) + 1)
    return ["id", "class", "score", *(title for place in more for title in (f"class_{place}", f"score_{place}"))]


def row(prediction: Prediction, head: Any) -> list[str]:
    """One picture's line, the best class first."""
    assert prediction.scores is not None
    if head.classes == 1:
        return [prediction.id, f"{prediction.scores.item():.6f}"]
    best = prediction.scores.topk(min(_MOST, head.classes))
    names = head.names or [str(number) for number in range(head.classes)]
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [prediction.id, *(text for number, score in pairs for text in (names[number], f"{score:.6f}"))]


def _whole_rows(file: Path) -> list[list[str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.reader(opened))
