"""One job on several machines, here all on this one: torchrun's nodes, SLURM's tasks, and commands started by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from several_processes import free_port, on_processes
from tiny_runs import REPOSITORY, TINY, check_same_losses, content, curve, in_process

pytestmark = pytest.mark.faults

STEPS = 12
LENGTH = ["--trainer.max_steps", str(STEPS), "--trainer.log_every_n_steps", "1", "--checkpoint.every_n_steps", "2"]
LENGTH += ["--trainer.val_check_interval", "4", "--probes.pictures", "0"]
NODES = ["--trainer.strategy", "ddp", "--trainer.num_nodes", "2", "--trainer.devices", "1"]
SCRIPT = REPOSITORY / "configs" / "trainer" / "slurm.sh"
SRUN = """#!/bin/sh
# As SLURM starts two tasks on one node: numbered, with nothing else to go by; a failing one takes the other along.
[ "$1" = --kill-on-bad-exit=1 ] || exit 64
shift
echo "$@" > "$ASKED/srun"
SLURM_PROCID=1 SLURM_LOCALID=1 SLURM_NODEID=0 "$@" &
other=$!
SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 "$@"
code=$?
wait $other
exit $code
"""
SCONTROL = """#!/bin/sh
[ "$1 $2" = "show hostnames" ] && { echo 127.0.0.1; exit; }
echo "$@" >> "$ASKED/scontrol"
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    root = tmp_path_factory.mktemp("alone")
    assert in_process("fit", *TINY, *LENGTH, "--trainer.default_root_dir", root) == 0
    return root / "default" / "version_0"


def check_same_run(run, alone):
    check_same_losses(run, alone, STEPS)
    assert content(run)["global_step"] == STEPS


def node(number: int, port: int, root, *words: str) -> subprocess.Popen:
    """``torchrun`` on one of two machines."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAE_VLM_DECIDED", "PL_", "RANK", "WORLD_SIZE"))}
    env |= {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(number)]
    launcher += ["--master-addr", "127.0.0.1", "--master-port", str(port), "-m", "mae_vlm", "fit", "--ckpt_path", "auto"]
    command = [sys.executable, *launcher, *TINY, *LENGTH, *NODES, "--trainer.default_root_dir", str(root), *words]
    return subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def kill_all(*nodes: subprocess.Popen) -> None:
    for one in nodes:
        if one.poll() is None:
            os.killpg(one.pid, signal.SIGKILL)


def kill_machine(launcher: subprocess.Popen) -> None:
    """The launcher and what it has launched, at once; torchrun puts its workers into sessions of their own."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher.pid)], capture_output=True, text=True).stdout
    workers = [int(word) for word in listed.split()]
    assert workers
    for one in (launcher.pid, *workers):
        os.kill(one, signal.SIGKILL)
    launcher.wait(10)


def test_a_machine_that_dies_ends_the_other_and_both_go_on_from_the_last_checkpoint(alone, tmp_path):
    mark = tmp_path / "mark"
    given = {"mark": str(mark), "step": 7, "rank": 1, "number": int(signal.SIGSTOP)}  # it holds still, and dies
    die = {"class_path": "tests.faults.killer.Harm", "init_args": given}
    port = free_port()
    nodes = [node(number, port, tmp_path, "--trainer.callbacks", json.dumps([die])) for number in range(2)]
    try:
        until = time.monotonic() + 240
        while not mark.exists() and time.monotonic() < until and nodes[0].poll() is nodes[1].poll() is None:
            time.sleep(0.2)
        assert mark.exists(), [one.poll() for one in nodes]
        kill_machine(nodes[1])
        began = time.monotonic()
        said = nodes[0].communicate(timeout=60)[0]
        assert nodes[0].returncode != 0 and time.monotonic() - began < 60, said
    finally:
        kill_all(*nodes)
    run = tmp_path / "default" / "version_0"
    assert content(run)["global_step"] == 6
    port = free_port()
    nodes = [node(number, port, tmp_path) for number in range(2)]
    try:
        said = [one.communicate(timeout=240)[0] for one in nodes]
    finally:
        kill_all(*nodes)
    assert [one.returncode for one in nodes] == [0, 0], said
    assert "resumed" in said[0] and "at step 6" in said[0]
    assert [path.name for path in run.parent.iterdir()] == ["version_0"], "both machines agreed on one run"
    check_same_run(run, alone)


def started(root, *words):
    """The command on one machine; the number of the process and its first weights' checksum."""
    sys.argv = ["mae_vlm"]
    assert in_process("fit", *TINY, *LENGTH, *NODES, "--ckpt_path", "auto", "--trainer.default_root_dir", root, *words) == 0


def test_commands_started_by_hand_on_two_machines_make_one_run(alone, tmp_path):
    def by_hand(rank):
        return {"NODE_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}

    on_processes(2, started, str(tmp_path), env=by_hand)
    assert [path.name for path in (tmp_path / "default").iterdir()] == ["version_0"]
    check_same_run(tmp_path / "default" / "version_0", alone)


def slurm(root, *words: str) -> subprocess.CompletedProcess[str]:
    """The batch script, as SLURM starts it on its first node."""
    commands = root / "commands"
    commands.mkdir(exist_ok=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAE_VLM_DECIDED", "PL_", "RANK", "WORLD", "MASTER"))}
    env |= {"PATH": f"{commands}:{env['PATH']}", "PYTHON": sys.executable, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    env |= {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "mae", "SLURM_JOB_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_NNODES": "1"}
    env |= {"SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NUM_NODES": "1", "MASTER_PORT": str(free_port()), "ASKED": str(root)}
    command = ["bash", str(SCRIPT), *TINY, *LENGTH, "--trainer.strategy", "ddp", "--trainer.default_root_dir", str(root), *words]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=240)


def test_slurms_warning_saves_requeues_and_the_next_start_goes_on(alone, tmp_path):
    warn = {"mark": str(tmp_path / "mark"), "step": 5, "number": int(signal.SIGUSR1), "rank": 1}
    harm = json.dumps([{"class_path": "tests.faults.killer.Harm", "init_args": warn}])
    warned = slurm(tmp_path, "--trainer.callbacks", harm, "--trainer.max_steps", "100000")  # the processes ask each other every two seconds
    assert warned.returncode == 128 + signal.SIGUSR1, warned.stderr
    assert warned.stdout.count("stopped by SIGUSR1") == 1 and warned.stdout.count("run folder:") == 1
    assert (tmp_path / "scontrol").read_text() == "requeue 4711\n", "once, by the first process"
    run = tmp_path / "mae-4711" / "version_0"
    saved = content(run)["global_step"]
    assert saved >= 5
    assert curve(run, "train/loss")[0] == pytest.approx(curve(alone, "train/loss")[0], abs=1e-5), "the two tasks share each batch"
    again = slurm(tmp_path, "--trainer.max_steps", str(saved + 2))
    assert again.returncode == 0, again.stderr
    assert f"at step {saved}" in again.stdout and content(run)["global_step"] == saved + 2
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]


def test_the_batch_script_is_bash_and_says_what_it_relies_on():
    assert subprocess.run(["bash", "-n", SCRIPT], capture_output=True).returncode == 0
    text = SCRIPT.read_text()
    for line in ("#SBATCH --signal=USR1@120", "#SBATCH --requeue", "#SBATCH --open-mode=append"):
        assert line in text.splitlines()
