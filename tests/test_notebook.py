"""The notebook's cells run, from the first to the last, at a tiny size; it is kept without outputs."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from documented import ran, tiny
from tiny_runs import MACHINE, REPOSITORY, curve

NOTEBOOK = REPOSITORY / "notebooks" / "pretrain_and_detect.ipynb"
WHOLE = json.loads(NOTEBOOK.read_text())
CODE = [cell for cell in WHOLE["cells"] if cell["cell_type"] == "code"]
COMMAND = "!{PYTHON} -m mae_vlm "
SCENES = ["--data.val_fraction", "null", "--data.scenes", "24", "--data.val_scenes", "8"]


def execute(cell: dict, names: dict) -> str:
    """Run a cell as Jupyter would, its commands at a tiny size; what the commands said."""
    source = "".join(cell["source"])
    if not source.startswith("!"):
        exec(compile(source, f"cell {cell['id']}", "exec"), names)
        return ""
    assert source.startswith(COMMAND) and "\n" not in source
    filled = re.sub(r"\{(\w+)\}", lambda found: str(names[found[1]]), source.removeprefix(COMMAND))
    verb, *words = shlex.split(filled)
    return ran(verb, *words, *([*tiny(words), *SCENES] if verb == "fit" else MACHINE))


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The folder it ran in, as ``notebooks`` beside ``configs``, and the names it left."""
    root, names = tmp_path_factory.mktemp("checkout"), {}
    (root / "configs").symlink_to(REPOSITORY / "configs")
    (root / "notebooks").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "notebooks")
        for cell in CODE:
            execute(cell, names)
    return root / "notebooks", names


def test_all_cells_run_and_leave_what_they_tell_of(executed):
    folder, names = executed
    runs = {name: folder / "runs" / name / "version_0" for name in ("scenes", "detector")}
    assert curve(runs["scenes"], "val/pixels/other_picture") and curve(runs["detector"], "val/box_map")
    assert len(list((runs["detector"] / "answers" / "drawn").glob("*.png"))) == 8
    assert (runs["detector"] / "answers" / "detections.json").is_file()
    assert names["features"].shape == (8, 32)
    assert names["sheet"].size == (4 * 240, 240)


def test_the_detector_took_the_encoder_of_the_run(executed):
    folder, _ = executed
    stated = (folder / "runs" / "detector" / "version_0" / "config.yaml").read_text()
    assert re.search(r"weights: \S*runs/scenes/version_0", stated) and "width: 32" in stated


def test_no_outputs_are_kept():
    assert not [cell["id"] for cell in CODE if cell["outputs"] or cell["execution_count"] is not None]


def test_no_paths_of_a_machine_are_kept():
    assert not re.findall(r"(?<![\w.])/(?:home|root|work|tmp|Users|mnt|data)\b|[A-Z]:\\", NOTEBOOK.read_text())


def test_it_is_a_notebook_of_format_4_5():
    assert (WHOLE["nbformat"], WHOLE["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in WHOLE["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", id) for id in ids)
    kinds = {"markdown": set(), "code": {"execution_count", "outputs"}}
    for cell in WHOLE["cells"]:
        assert cell.keys() == {"cell_type", "id", "metadata", "source"} | kinds[cell["cell_type"]]
        assert all(line.endswith("\n") for line in cell["source"][:-1])
