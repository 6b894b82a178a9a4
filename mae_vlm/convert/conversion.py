"""From any format to any other: read, held against what the target can say, written whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mae_vlm.convert import deviation, facebook, native_run, outlet, timm, transformers
from mae_vlm.convert.found import EPS, Found
from mae_vlm.encoders.vit import Vit


@dataclass(frozen=True)
class Written:
    """What a conversion made: files, what must be known of them (a line each), and how they are opened."""

    files: list[Path]
    told: list[str]
    opened: str


def convert(source: str, to: str, out: Path, weights: str = "raw", force: bool = False, classifier: bool = False) -> Written:
    """Read ``source``, whatever of the known formats it is, and write it ``to`` another into the folder ``out``.

    Raises:
        ValueError: a source that is none of them, is damaged, or that the target cannot hold; an ``out`` that is not empty.
        OSError: no permission or no room.
    """
    if to == "native" and (out / "checkpoints").is_dir():
        raise ValueError(f"{out} is a run already, which is never written over; choose another --out")
    found = native_run.read(source, weights)
    if classifier and found.classifier is None:
        raise ValueError(f"{source} has no classifier of classes as its only head; leave --classifier out")
    encoder = found.build()
    made = _Made(found, encoder, classifier)
    write: Callable[[Path], list[Path]] = getattr(made, to)
    files = outlet.deliver(out, write, force)
    return Written(files, [f"{found.kind}: {source}", *found.told(), *made.lines], made.opened.format(out=out))


class _Made:
    """One model on its way out; a method for each target, which adds what that one cannot hold to ``lines``."""

    def __init__(self, found: Found, encoder: Vit, classifier: bool) -> None:
        self.found, self.encoder, self.whole = found, encoder, classifier
        self.lines: list[str] = []
        self.opened = ""

    def native(self, folder: Path) -> list[Path]:
        self.lines += deviation.of_decoder(self.found, self.encoder, EPS, "our pixel decoder")
        if self.found.decoder is not None:
            deviation.pixels_of(self.found, self.encoder)  # tells what does not fit
        self.opened = 'mae_vlm.load("{out}"), or python -m mae_vlm fit --model.weights {out}'
        return native_run.write(self.found, self.encoder, folder)

    def timm(self, folder: Path) -> list[Path]:
        self.lines += deviation.of_encoder(self.encoder, deviation.architectures_own(self.encoder), f"timm's {self.encoder.architecture}")
        self._behind(decoder=True, classifier=not self.whole)
        self.opened = 'timm.create_model("local-dir:{out}", pretrained=True)'
        classifier = self.found.classifier if self.whole else None
        return timm.write(self.encoder, folder) if classifier is None else timm.write_classifier(classifier, self.encoder, folder)

    def transformers(self, folder: Path) -> list[Path]:
        eps = self.encoder.vit.blocks[0].norm1.eps
        self.lines += deviation.of_encoder(self.encoder, eps, "transformers' ViTMAE") + deviation.of_decoder(
            self.found, self.encoder, eps, "transformers' ViTMAE"
        )
        self._behind(classifier=True)
        kind = "ViTMAEModel" if self.found.decoder is None else "ViTMAEForPreTraining"
        self.opened = f'transformers.{kind}.from_pretrained("{{out}}")'
        return transformers.write(self.found, self.encoder, folder)

    def facebook(self, folder: Path) -> list[Path]:
        self.lines += deviation.of_encoder(self.encoder, EPS, "the MAE paper's code")
        self.lines += deviation.of_decoder(self.found, self.encoder, EPS, "the MAE paper's code")
        self._behind(decoder=self.whole, classifier=not self.whole)
        self.opened = f'torch.load("{{out}}/{facebook.FILE}", weights_only=True)["model"]'
        return facebook.write(self.found, self.encoder, folder, self.whole)

    def _behind(self, decoder: bool = False, classifier: bool = False) -> None:
        left = ["its decoder"] if decoder and self.found.decoder is not None else []
        left += (
            ["its classifier (--classifier takes it along, where the target can)"]
            if classifier and self.found.classifier is not None
            else []
        )
        left += ["its text tower"] if self.found.text is not None else []
        if left:
            self.lines.append(f"left behind: {', '.join(left)}")
