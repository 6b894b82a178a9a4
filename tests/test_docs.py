"""Every command of the documentation runs: as it is written it parses, and at a tiny size it does what the page says.

The pages' own names stand for folders that are made here, and later commands take the runs that earlier ones leave behind, as a reader
would.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from documented import BLOCKS, DOCS, PAGES, Workshop, printed, run
from tiny_runs import REPOSITORY

PROMISED = {  # what each page says that its commands leave behind
    "pretrain.md": ["check_report/report.html", "runs/photos/version_0/config.yaml", "runs/photos/version_0/report.html"],
    "captions.md": ["vocabulary.json", "photos.index/search.html", "captions/predictions.csv"],
    "detector.md": [
        *(f"answers/{name}" for name in ("detections.json", "images.json", "predictions.csv", "drawn")),
        *("runs/boxes/version_0/checkpoints/best.ckpt", "runs/boxes/version_0/robustness/robustness.csv", "boxes_onnx/model.onnx"),
    ],
    "gpus.md": ["runs/two/version_0/metrics.csv"],
}
SOURCES = [REPOSITORY / "README.md", REPOSITORY / "BENCHMARKS.md", *sorted((REPOSITORY / "configs").rglob("*.yaml"))]
HOMES = {"detector.md": "finetune/quick_detect", "--model.heads.caption": "finetune/quick_caption"}  # configs that know the options


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("workshop")
        patch.chdir(folder)
        for name in ("_SECONDS", "_ENOUGH"):
            patch.setattr(f"mae_vlm.cli.doctor.{name}", 0.0)
        yield Workshop(folder)


@pytest.mark.parametrize("number", range(len(BLOCKS)), ids=[f"{block.page}:{block.line}" for block in BLOCKS])
def test_the_command_runs_as_it_is_written(number, workshop):
    workshop.upto(number)


@pytest.mark.parametrize("page", PROMISED)
def test_the_commands_leave_what_the_page_promises(page, workshop):
    workshop.upto(max(number for number, block in enumerate(BLOCKS) if block.page == page))
    assert not [name for name in PROMISED[page] if not Path(name).exists()]


def test_features_and_metrics_are_what_the_page_calls_them(workshop):
    workshop.upto(max(number for number, block in enumerate(BLOCKS) if block.page == "detector.md"))
    assert workshop.names["features"].shape == (2, 32)
    metrics = {"photos": "pixels/other_picture", "retrieval": "recall_mean", "captioner": "cider", "boxes": "box_map"}
    for name, metric in metrics.items():
        with Path("runs", name, "version_0", "metrics.csv").open() as file:
            assert f"val/{metric}" in next(csv.reader(file)), name


def test_an_unknown_program_verb_or_option_fails(workshop):
    mistakes = ["docker run mae_vlm", "python -m mae_vlm fitt", "python -m mae_vlm fit --data.pat MY_PHOTOS", "python -m data_prep chek X"]
    for command in [*mistakes, "torchrun --nodes 2 -m mae_vlm fit"]:
        with pytest.raises((AssertionError, SystemExit)):
            run(command.split())


@pytest.mark.parametrize("page", PAGES)
def test_options_named_in_the_text_exist(page, workshop):
    by_home = defaultdict(list)
    for option in sorted(set(re.findall(r"`(--(?:data|model|trainer)\.[^`]*)`", (DOCS / page).read_text()))):
        home = next((home for start, home in HOMES.items() if option.startswith(start)), HOMES.get(page, "pretrain/scenes_vision_language"))
        by_home[home] += [option] if " null" not in option else []
    for home, options in by_home.items():
        words = [word for option in options for word in (option if " " in option else f"{option} null").split()]
        printed(["--config", f"configs/{home}.yaml", *words])


@pytest.mark.parametrize("page", PAGES)
def test_files_and_sections_named_in_the_text_exist(page):
    text = (DOCS / page).read_text()
    files = re.findall(r"`((?:configs|tests|notebooks)/[\w./]+)`", text)
    assert not [name for name in files if not (REPOSITORY / name).exists()]
    benchmarks = (REPOSITORY / "BENCHMARKS.md").read_text()
    for title in re.findall(r'`BENCHMARKS.md`, "([^"]*)"', text.replace("\n", " ")):
        assert re.search(rf"^(## |\*\*){re.escape(title)}", benchmarks, re.MULTILINE), title


@pytest.mark.parametrize("page", PAGES)
def test_every_measured_figure_stands_in_its_source(page):
    """Figures with a decimal point: three digits and more, per cents and megabytes."""
    told = "".join(path.read_text() for path in SOURCES)
    prose = re.sub(r"^```.*?^```", "", (DOCS / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    figures = re.findall(r"(?<![\d.])\d+\.\d{3,}|(?<![\d.])\d+\.\d+(?= ?(?:%|MB|times))|\d+ (?:CPU )?seconds", prose)
    assert not [figure for figure in figures if figure.lstrip("0") not in told]


def test_the_navigation_names_every_page():
    site = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())
    assert [page for entry in site["nav"] for page in entry.values()] == PAGES
    assert {path.name for path in DOCS.glob("*.md")} == set(PAGES)


@pytest.mark.parametrize("more, fails", [("", False), ("[lost](nowhere.md)", True), ("[lost](pretrain.md#nowhere)", True)])
def test_make_docs_builds_the_pages_and_fails_on_a_broken_link(more, fails, tmp_path):
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(REPOSITORY / "mkdocs.yml", tmp_path)
    with (tmp_path / "docs" / "index.md").open("a") as page:
        page.write(f"\n{more}\n")
    recipe = re.search(r"^docs:.*\n\t.*\$\(BIN\)/(mkdocs .*)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    command = [sys.executable, "-m", *recipe[1].split()]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=120)
    assert (done.returncode != 0) is fails, done.stderr
    assert fails or (tmp_path / "site" / "gpus" / "index.html").is_file()
