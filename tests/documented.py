"""The commands of the documentation, and the small folders and options that they run with. Shared by the tests of pages and notebook."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import yaml
from several_processes import on_processes
from tiny_runs import MACHINE, REPOSITORY, in_process

DOCS = REPOSITORY / "docs"
PAGES = ["index.md", "pretrain.md", "captions.md", "detector.md", "gpus.md"]
COMMON = [*MACHINE, "--data.image_size", "32", "--data.batch_size", "8", "--data.val_fraction", "0.3", "--trainer.max_epochs", "null"]
COMMON += ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--probes.pictures", "0", "--pictures.count", "2"]
SHRUNK = {  # options of the classes that a config names
    "Vit": {"name": "null", "width": 32, "depth": 1, "heads": 2, "patch": 8},
    "Transformer": {"width": 32, "depth": 1, "heads": 2},
    "CrossAttention": {"depth": 1, "heads": 2},
    "Pixels": {"width": 16, "depth": 1, "heads": 2},
    "SoftmaxContrast": {"width": 16},
    "Dense": {"width": 16, "layers": 1},
    "Retrieve": {"width": 16},
    "Caption": {"longest": 8},
}
PARSED = ("IMAGENET", "--trainer.devices 8", "two_processes_fsdp")  # what needs GPUs, and its longer twin


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str


def blocks() -> Iterator[Block]:
    """The pages' commands and programs, in their order."""
    for page in PAGES:
        text = (DOCS / page).read_text()
        for found in re.finditer(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            line = text[: found.start()].count("\n") + 2
            if found[1] == "python":
                yield Block(page, line, "python", found[2])
            elif found[1] == "bash":
                commands = found[2].replace("\\\n", " ").splitlines()
                yield from (Block(page, line, "bash", command) for command in commands if command.strip())


BLOCKS = list(blocks())


def scene_files(folder: Path, start: int, count: int) -> list:
    """Generated scenes as files ``NNNN.png`` in ``folder``; what is known of them."""
    from torchvision.io import write_png

    from mae_vlm.data.sources.scenes import Scenes

    folder.mkdir(parents=True)
    scenes = [Scenes(64, (40, 48), seed=3)[number] for number in range(start, start + count)]
    for number, scene in enumerate(scenes):
        write_png(scene.image, str(folder / f"{number:04d}.png"))
    return scenes


def told(scenes: list) -> Iterator[str]:
    """Lines with the scenes' captions, and a question of each; each sixth has no caption."""
    for number, scene in enumerate(scenes):
        image = f"images/{number:04d}.png"
        yield json.dumps({"image": image, "captions": list(scene.captions) if number % 6 else []})
        yield json.dumps({"image": image, "question": scene.questions[0].text, "answer": scene.questions[0].answers[0]})


def coco(scenes: list) -> str:
    """The scenes' boxes as COCO's json."""
    boxes = [(image, kind, box) for image, scene in enumerate(scenes) for kind, box in zip(scene.classes, scene.boxes, strict=True)]
    annotations = []
    for number, (image, kind, box) in enumerate(boxes, start=1):
        left, top, right, bottom = box.tolist()
        place = {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top), "iscrowd": 0}
        annotations.append({"id": number, "image_id": image, "category_id": int(kind) + 1, **place})
    images = [{"id": image, "file_name": f"{image:04d}.png", "height": 40, "width": 48} for image in range(len(scenes))]
    categories = [{"id": number + 1, "name": f"shape {number}"} for number in range(7)]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


class Workshop:
    """A folder with the reader's data, in which the commands run one after the other, each once."""

    def __init__(self, folder: Path) -> None:
        self.done, self.names = 0, {}
        (folder / "configs").symlink_to(REPOSITORY / "configs")
        for name in ("MY_PHOTOS", "IMAGENET"):
            for group in ("left", "right"):
                scene_files(folder / name / f"{group}_", 0 if group == "left" else 12, 12)
        for group, start in (("circle", 0), ("square", 16)):
            scene_files(folder / "MY_CLASSES" / group, start, 16)
        scenes = scene_files(folder / "MY_PAIRS" / "images", 0, 24)
        (folder / "MY_PAIRS" / "captions.jsonl").write_text("\n".join(told(scenes)))
        (folder / "MY_BOXES" / "annotations").mkdir(parents=True)
        for part, start, count in (("train", 0, 16), ("val", 16, 8)):
            known = coco(scene_files(folder / "MY_BOXES" / part, start, count))
            (folder / "MY_BOXES" / "annotations" / f"instances_{part}.json").write_text(known)

    def upto(self, number: int) -> None:
        """Run the blocks as far as ``number`` that have not run yet."""
        while self.done <= number:
            block = BLOCKS[self.done]
            self.done += 1
            if block.language == "python":
                exec(compile(block.text, f"{block.page}:{block.line}", "exec"), self.names)
            else:
                run(shlex.split(block.text))


def run(words: list[str]) -> None:
    """One command of a page, at a tiny size; what needs a cluster or stays open is only parsed."""
    match words:
        case ["python", "-m", "mae_vlm", "fit", *rest]:
            fit(rest)
        case ["python", "-m", "mae_vlm", "doctor", *rest]:
            printed(rest) if "IMAGENET" in rest else ran("doctor", *rest, *tiny(rest))
        case ["python", "-m", "mae_vlm", "robustness", *rest]:
            ran("robustness", *rest, *MACHINE, "--pictures", 4)
        case ["python", "-m", "mae_vlm", ("validate" | "predict") as verb, *rest]:
            ran(verb, *rest, *MACHINE)
        case ["python", "-m", "mae_vlm", *rest]:
            ran(*rest)
        case ["python", "-m", "data_prep", *rest]:
            prepared(*rest)
        case ["sbatch", *rest]:
            printed(rest[rest.index("configs/trainer/slurm.sh") + 1 :])
        case _:
            parse(words)


def parse(words: list[str]) -> None:
    """See that a program of others knows these options; of torchrun and make, that what they start is there."""
    match words:
        case ["torchrun", *rest]:
            from torch.distributed.run import get_args_parser

            given = get_args_parser().parse_args(rest)
            assert (given.module, given.training_script, given.training_script_args[0]) == (True, "mae_vlm", "fit")
            printed(given.training_script_args[1:])
        case ["tensorboard", *_]:
            from tensorboard.program import TensorBoard

            TensorBoard().configure(words)
        case ["make", target]:
            assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        case _:
            raise AssertionError(f"no program {words[0]!r} is known here")


def fit(words: list[str]) -> None:
    if "--print_config" in words or any(mark in " ".join(words) for mark in PARSED):
        printed(words)
    elif any("cpu_two_processes" in word for word in words):
        assert on_processes(2, in_process, "fit", *words, *tiny(words)) == [0, 0]
    else:
        ran("fit", *words, *tiny(words))


def printed(words: list[str]) -> str:
    """What a fit with these options amounts to, as --print_config tells it."""
    return ran("fit", *(word for word in words if word != "--print_config"), "--print_config")


def tiny(words: list[str]) -> list[str]:
    """The options that make a fit small: of the data, and of the classes that the command as it is written amounts to."""
    model = yaml.safe_load(printed(words))["model"]["init_args"]
    parts = {name: model.get(name) for name in ("encoder", "text", "fusion")}
    parts |= {f"{kind}.{name}": part for kind in ("objectives", "heads") for name, part in (model.get(kind) or {}).items()}
    if "--model.weights" in words:
        parts = {name: part for name, part in parts.items() if name not in ("encoder", "objectives.pixels")}  # sized by the run
    options = list(COMMON)
    for name, part in parts.items():
        for option, value in SHRUNK.get(part["class_path"].rpartition(".")[2] if part else "", {}).items():
            options += [f"--model.{name}.{option}", str(value)]
    return options


def ran(*words: str | Path | int) -> str:
    """What ``python -m mae_vlm WORDS`` says; it must end well."""
    return _said(in_process, *words)


def prepared(*words: str) -> str:
    from data_prep.__main__ import main

    return _said(lambda *given: main([*given, "--workers", "1"]), *words)


def _said(program: Callable[..., int], *words: str | Path | int) -> str:
    out, complaints = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(complaints):
        code = program(*words)
    assert code == 0, complaints.getvalue()[-3000:]
    return out.getvalue()
