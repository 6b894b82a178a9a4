"""Everything of a run that may leave the machine, made ready in a folder: an allow-list, nothing else is looked at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import yaml

from mae_vlm import __version__, pieces, storage
from mae_vlm.convert import native, pushed_words, timm, timm_classifier
from mae_vlm.encoders.vit import Vit
from mae_vlm.hub import record, secrecy
from mae_vlm.hub.card import Subject, card
from mae_vlm.hub.curves_picture import curves_png
from mae_vlm.hub.licences import check_licence
from mae_vlm.manifest import MANIFEST, entries, listing, measure
from mae_vlm.report import recorded
from mae_vlm.report.album import by_kind

T = TypeVar("T")


@dataclass(frozen=True)
class Wishes:
    """What a push is to hold.

    Attributes:
        licence: who may do what with it.
        weights: raw, or ema: their moving average.
        classifier: the whole classifier instead of the encoder alone.
        pictures: those that the run drew, newest of each kind; they show validation pictures.
        report: the report as one page; state: the newest checkpoint, to go on from.
    """

    licence: str
    weights: str = "raw"
    classifier: bool = False
    pictures: bool = True
    report: bool = False
    state: bool = False


@dataclass(frozen=True)
class Parcel:
    """Files by their name at the target, and the optimizer step of the weights."""

    files: dict[str, Path]
    step: int


def pack(run: Path, into: Path, wishes: Wishes, repo: str | None = None) -> Parcel:
    """Make ready what a push of ``run`` uploads; files that are made lie in the empty folder ``into``.

    Raises:
        ValueError: no run there, no whole checkpoint, a licence or wish that cannot be met, or a secret in what is wished.
    """
    check_licence(wishes.licence)
    told = recorded.read(run)
    return _with_newest(run, lambda checkpoint: _pack(told, checkpoint, into, wishes, repo))


def _with_newest(run: Path, do: Callable[[Path], T]) -> T:
    """What ``do`` makes of the newest whole checkpoint; of the next where a run at work has removed it meanwhile."""
    while True:
        checkpoint = native.newest_whole(run)
        try:
            return do(checkpoint)
        except (OSError, ValueError):
            if checkpoint.exists():
                raise


def _pack(told: recorded.Recorded, checkpoint: Path, into: Path, wishes: Wishes, repo: str | None) -> Parcel:
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    (config, state), step = native.read(checkpoint, wishes.weights), native.step_of(checkpoint)
    words = {file.name: file for file in pushed_words.write(*native.words_of(config, state), into)}
    clean = secrecy.cleaned(config)
    if words:
        clean["model"]["init_args"]["text"]["init_args"]["vocabulary"] = pushed_words.VOCABULARY
    told = replace(told, config=clean, facts=secrecy.cleaned(told.facts))
    files = _models(told.folder, checkpoint, into, wishes) | words
    files["config.yaml"] = _write(into / "config.yaml", yaml.safe_dump(clean, sort_keys=False).encode())
    if wishes.pictures:
        files |= {f"pictures/{name}.png": steps[-1][1] for name, steps in by_kind(told.pictures).items()}
    if (curves := curves_png(told)) is not None:
        files["curves.png"] = _write(into / "curves.png", curves)
    if wishes.report:
        from mae_vlm.report.findings.verdict import judge
        from mae_vlm.report.page import REPORT, page

        shown = replace(told, config_text=files["config.yaml"].read_text())
        files[REPORT] = _write(into / REPORT, page(shown, judge(shown)).encode())
    if wishes.state:
        if secrecy.has_secrets(config):
            raise ValueError(f"{checkpoint} keeps a config with a password or token, which would be uploaded; leave the resume state out")
        files |= _state(checkpoint, into, step)
    stated = json.loads(files["config.json"].read_text())
    subject = Subject(told, repo, step, wishes.weights == "ema", stated, [*files, "README.md"], __version__)
    files["README.md"] = _write(into / "README.md", card(subject, wishes.licence).encode())
    files[record.RECORD] = _write(into / record.RECORD, record.written(files, step, __version__))
    return Parcel(dict(sorted(files.items())), step)


def _models(run: Path, newest: Path, into: Path, wishes: Wishes) -> dict[str, Path]:
    """The newest weights, and in folders of their own the best ones by each head's metric."""
    whole = {"": newest}
    bests = sorted((run / "checkpoints").glob("best*.ckpt"))
    whole |= {f"{file.stem}/": file for file in bests if storage.damage(file) is None}
    files: dict[str, Path] = {}
    for folder, checkpoint in whole.items():
        encoder = native.read_encoder(checkpoint, wishes.weights)
        if not isinstance(encoder, Vit) or not encoder.masks:
            raise ValueError(f"{run}: its encoder is a {type(encoder).__name__}; only a plain ViT can be pushed, as a timm model")
        place = into / (folder or "model")
        made = timm_classifier.write(checkpoint, encoder, place, wishes.weights) if wishes.classifier else timm.write(encoder, place)
        for file in made:
            files[f"{folder}{file.name}"] = file
        stated = json.loads(made[0].read_text())
        stated["pretrained_cfg"]["license"] = wishes.licence
        made[0].write_text(json.dumps(stated, indent=2) + "\n")
    return files


def _state(checkpoint: Path, into: Path, step: int) -> dict[str, Path]:
    """The checkpoint as ``checkpoints/last.ckpt``, with a manifest of its own: what is downloaded is a run folder to go on from."""
    name = f"checkpoints/{storage.LAST}"
    if pieces.in_pieces(checkpoint):
        files = {f"{name}/{file.relative_to(checkpoint).as_posix()}": file for file in sorted(checkpoint.rglob("*")) if file.is_file()}
        entry = measure(checkpoint / MANIFEST)
    else:
        files = {name: checkpoint}
        entry = (entries(checkpoint.parent).get(checkpoint.name) or [measure(checkpoint)])[-1]
    manifest = listing({storage.LAST: [replace(entry, step=step)]})
    return files | {f"checkpoints/{MANIFEST}": _write(into / "checkpoints" / MANIFEST, manifest)}


def _write(file: Path, content: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file
