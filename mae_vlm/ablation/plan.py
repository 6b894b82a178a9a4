"""What an ablation runs: the product of the varied settings, each with every seed, in folders that tell their choice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import product
from pathlib import Path

import yaml

OWN = ("name", "ckpt_path", "seed_everything", "trainer.default_root_dir")  # options of fit that an ablation sets itself
_LENGTH = ("trainer.max_steps", "trainer.max_epochs", "trainer.max_time")
# what every run of an ablation has unless it is said otherwise: the probe is what ranks, so it has more pictures than a short run would
# give it, at the start and at the end alone, which costs every run alike
_OURS = {"--trainer.enable_progress_bar": "false", "--probes.time_share": "1", "--probes.every_n_steps": "1000000000"}
_LONGEST = 80  # characters of a folder's name


@dataclass(frozen=True)
class Choice:
    """One value for each varied option: ``label`` for people, ``folder`` a name for its runs, ``options`` as (key, value as given)."""

    label: str
    folder: str
    options: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Length:
    """The budget of a run: optimizer ``steps`` or ``minutes``; the config's own where both are None."""

    steps: int | None = None
    minutes: float | None = None

    def words(self, begun: int | None = None) -> list[str]:
        """Options of fit; ``begun`` is the number of steps that a run which was cut off had planned, and keeps."""
        if self.steps is not None:
            return [f"--trainer.max_steps={self.steps}", "--trainer.max_epochs=null", "--trainer.max_time=null"]
        if self.minutes is None:
            return []
        seconds = round(self.minutes * 60)
        clock = f"{seconds // 86400:02}:{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        return [f"--trainer.max_steps={begun or -1}", "--trainer.max_epochs=null", f"--trainer.max_time={clock}"]


@dataclass(frozen=True)
class Job:
    """One run: its choice and seed, below the ablation's folder ``out``."""

    choice: Choice
    seed: int
    out: Path

    @property
    def label(self) -> str:
        return f"{self.choice.label} seed {self.seed}"

    @property
    def root(self) -> Path:
        return self.out / "runs" / self.choice.folder

    @property
    def log(self) -> Path:
        return self.root / f"seed_{self.seed}.log"

    @property
    def record(self) -> Path:
        return self.root / f"seed_{self.seed}.json"

    def folder(self) -> Path | None:
        """The folder of the newest run under this job's name, None before it has one."""
        numbered = [path for path in (self.root / f"seed_{self.seed}").glob("version_*") if path.name[8:].isdigit()]
        return max(numbered, key=lambda path: int(path.name[8:]), default=None)

    def words(self, given: list[str], length: Length, begun: int | None = None) -> list[str]:
        """The arguments of ``python -m mae_vlm``: a varied config comes first, any other varied option last, so that it wins."""
        configs = [f"--{key}={value}" for key, value in self.choice.options if key == "config"]
        varied = [f"--{key}={value}" for key, value in self.choice.options if key != "config"]
        said = {word.partition("=")[0] for word in given}
        ours = [f"{key}={value}" for key, value in _OURS.items() if key not in said]
        place = [f"--trainer.default_root_dir={self.root}", f"--name=seed_{self.seed}", "--ckpt_path=auto"]
        return ["fit", *configs, *ours, *given, *length.words(begun), *varied, f"--seed_everything={self.seed}", *place]


def jobs(choices: list[Choice], seeds: int, out: Path) -> list[Job]:
    """Every choice with seed 0, then every choice with seed 1, ...: what is cut short is still a fair comparison."""
    return [Job(choice, seed, out) for seed in range(seeds) for choice in choices]


def choices(varied: list[str]) -> list[Choice]:
    """The product of ``KEY=V1,V2`` words.

    Raises:
        ValueError: a word without key or values, a key or a value twice, an option that is not to be varied, one choice only.
    """
    values: dict[str, list[str]] = {}
    for word in varied:
        key, _, text = word.removeprefix("--").partition("=")
        if not key or not text.strip():
            raise ValueError(f"--vary {word!r} given; it takes KEY=V1,V2, as model.masking.ratio=0.6,0.75")
        if key in values:
            raise ValueError(f"--vary {key} given twice; put all of its values into one, as {key}=V1,V2,V3")
        if key in OWN:
            raise ValueError(f"--vary {key}: ablate sets it itself{'; --seeds N varies the seed' if key == 'seed_everything' else ''}")
        values[key] = _values(key, text)
    made = [_choice(tuple(zip(values, combination, strict=True))) for combination in product(*values.values())]
    if len(made) < 2:
        raise ValueError(f"--vary {' --vary '.join(varied)} is one choice; give at least two values to compare, as KEY=V1,V2")
    return made


def check_given(given: list[str], length: Length, varied: list[Choice]) -> None:
    """Refuse options of fit that an ablation sets, and two lengths.

    Raises:
        ValueError: one was given.
    """
    own = OWN + (() if length == Length() else _LENGTH)
    for word in given:
        key = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and key in own:
            raise ValueError(f"--{key} given, which ablate sets itself; leave it out ({_instead(key)})")
    for key, _ in varied[0].options:
        if key in own:
            raise ValueError(f"--vary {key} together with --steps or --minutes; leave those out, or vary something else")


def _instead(key: str) -> str:
    if key in _LENGTH:
        return "--steps or --minutes tells the length"
    return "--seeds N tells how many seeds" if key == "seed_everything" else "--out DIR tells where the runs lie"


def _choice(options: tuple[tuple[str, str], ...]) -> Choice:
    names = short_names([key for key, _ in options])
    label = " ".join(f"{name}={value}" for name, (_, value) in zip(names, options, strict=True))
    folder = re.sub(r"[^\w.=+-]+", "_", label)
    if folder != label or len(folder) > _LONGEST:  # what the name cannot hold, a hash of the whole tells apart
        folder = f"{folder[:_LONGEST]}-{blake2b(repr(options).encode(), digest_size=3).hexdigest()}"
    return Choice(label, folder, options)


def short_names(keys: list[str]) -> list[str]:
    """The shortest ends of dotted keys that still differ from each other."""
    for parts in range(1, 1 + max(key.count(".") + 1 for key in keys)):
        names = [".".join(key.split(".")[-parts:]) for key in keys]
        if len(set(names)) == len(keys):
            return names
    return keys


def _values(key: str, text: str) -> list[str]:
    found = [value.strip() for value in _between_commas(text)]
    for place, value in enumerate(found):
        try:
            yaml.safe_load(value)
        except yaml.YAMLError as problem:
            raise ValueError(f"--vary {key}: {value!r} is not a YAML value: {' '.join(str(problem).split())}") from problem
        if not value:
            raise ValueError(f"--vary {key}={text}: a value is empty; null says none")
        if value in found[:place]:
            raise ValueError(f"--vary {key}: {value} given twice")
    return found


def _between_commas(text: str) -> Iterator[str]:
    """The pieces between the commas that lie in no bracket, brace or quotes."""
    depth, quote, start = 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "[{(":
            depth += 1
        elif letter in ")}]":
            depth -= 1
        elif letter == "," and depth == 0:
            yield text[start:place]
            start = place + 1
    yield text[start:]
