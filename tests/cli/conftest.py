"""One tiny run, started as a user would from a foreign folder, that many tests look at."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from tiny_runs import TINY, in_new_process

STEPS = 24  # 6 epochs of 4 steps


class Trained(NamedTuple):
    folder: Path
    process: subprocess.CompletedProcess[str]
    root: Path  # its trainer.default_root_dir


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Trained:
    """``fit`` without a config, 24 steps, with a checkpoint every 6. Nobody may write into its folder."""
    place = tmp_path_factory.mktemp("somewhere")
    words = [*TINY, "--trainer.max_steps", STEPS, "--checkpoint.keep_every", 6]
    process = in_new_process("fit", *words, cwd=place)
    assert process.returncode == 0, process.stderr
    return Trained(place / "runs" / "default" / "version_0", process, place / "runs")


@pytest.fixture
def complaint(capsys):
    """Runs a command that must fail; gives its one line of complaint."""
    from tiny_runs import in_process

    def run(*words, code=None):
        capsys.readouterr()
        result = in_process(*words)
        output = capsys.readouterr()
        lines = [line for line in output.err.splitlines() if line.strip()]
        assert result != 0 and (code is None or result == code), (result, output)
        assert len(lines) == 1, output.err
        assert lines[0].startswith("mae_vlm: error: "), lines[0]
        assert "Traceback" not in output.err + output.out
        print(lines[0])  # pytest -rP shows what users read
        return lines[0].removeprefix("mae_vlm: error: ")

    return run
