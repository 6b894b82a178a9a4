"""What the first process decides reaches the processes that it starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mae_vlm.cli import agreement

NAMES = [f"class number {number}" for number in range(20_000)]  # more than a variable of the environment may hold


@pytest.fixture(autouse=True)
def one_machine(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(agreement, "_kept", [])
    monkeypatch.setenv("MAE_VLM_DECIDED_LONG", "")  # restored afterwards


@pytest.mark.parametrize("names", [NAMES[:10], NAMES], ids=["short", "long"])
def test_processes_can_be_started_and_inherit_it_however_long_it_is(monkeypatch, names):
    assert agreement.agree("long", lambda: {"classes": names}) == {"classes": names}
    asked = "import json; from mae_vlm.cli.agreement import agree; print(json.dumps(agree('long', None)))"
    told = subprocess.run([sys.executable, "-c", asked], env=os.environ | {"LOCAL_RANK": "1"}, capture_output=True, text=True, check=True)
    assert json.loads(told.stdout) == {"classes": names}


def test_the_file_of_a_long_one_is_the_users_alone_and_goes_with_the_process():
    said = (
        "import os; from mae_vlm.cli.agreement import agree; agree('long', lambda: {'a': 'b' * 200_000}); "
        "file = os.environ['MAE_VLM_DECIDED_LONG'][1:]; print(file, oct(os.stat(file).st_mode & 0o777))"
    )
    told = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout.split()
    assert told[1] == "0o600" and not Path(told[0]).exists()
