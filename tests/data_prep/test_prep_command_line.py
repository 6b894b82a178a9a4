from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pictures_on_disk import write_folder

from data_prep.__main__ import VERBS, main

ROOT = Path(__file__).resolve().parents[2]


def told(arguments, capsys):
    """Exit code and the error of a command; argparse leaves by SystemExit."""
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().err


def test_help_is_there_before_anything_heavy_is_imported():
    code = (
        "import sys; from data_prep.__main__ import VERBS, main\n"
        "for verb in VERBS:\n"
        "    try: main([verb, '--help'])\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "main([]); heavy = {'torch', 'numpy', 'PIL', 'pyarrow', 'ray', 'rich'} & set(sys.modules); assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["chek"], 2, "no verb 'chek'; did you mean check?"),
        (["shards", "a"], 2, "DST is missing"),
        (["shards", "a", "b", "--quality", "80"], 2, "--quality is from 1 to 100, and is of pictures that --short-side shrinks"),
        (["shards", "a", "b", "--workers", "0"], 2, "'0' given, allowed is a whole number from 1 up"),
        (["shards", "a", "b", "--samples-per-shard", "5", "--shard-mb", "1"], 2, "not allowed with"),
        (["split", "a", "--out", "b", "--fraction", "2"], 2, "'2' given, allowed is a share between 0 and 1"),
        (["split", "a", "--out", "b", "--group-pattern", "abc"], 2, "has 0 groups; put (...) around"),
        (["split", "a", "--out", "b", "--group-pattern", "(a"], 2, "is not a regular expression"),
        (["statistics", "nowhere"], 1, "SRC nowhere does not exist"),
        (["check", "nowhere", "--format", "nothing"], 1, "--format nothing is unknown"),
        (["shards", "nowhere", "--verify"], 1, "dataset.json does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(arguments, code, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, error = told(arguments, capsys)
    assert found == code and words in error and error.count("\n") == 1 and error.startswith("data_prep: error: ")


def test_names_that_the_terminal_cannot_show_do_not_end_a_command(tmp_path, monkeypatch):
    shown = [io.TextIOWrapper(io.BytesIO(), encoding, errors="strict") for encoding in ("ascii", "utf-8")]
    monkeypatch.setattr(sys, "stdout", shown[0])
    monkeypatch.setattr(sys, "stderr", shown[1])
    name = os.fsdecode(b"gr\xff\xc3\xbcn")
    write_folder(tmp_path / "a", [f"{name}/{number}.png" for number in range(3)] + ["red/3.png"])
    assert main(["split", str(tmp_path / "a"), "--out", str(tmp_path / "out"), "--group-pattern", "^(.*)/"]) == 0
    assert main(["check", str(tmp_path / name)]) == 1
    for stream in shown:
        stream.flush()
    assert b"warning: group gr\\udcff\\xfcn holds 3 of 4" in shown[0].buffer.getvalue()
    assert b"gr\\udcff" in shown[1].buffer.getvalue()


def test_without_ray_the_user_is_told_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    write_folder(tmp_path / "a", ["a.png"])
    code, error = told(["shards", str(tmp_path / "a"), str(tmp_path / "b"), "--engine", "ray"], capsys)
    assert code == 1 and "--engine ray needs Ray, which is not installed; pip install 'mae_vlm[ray]'" in error
