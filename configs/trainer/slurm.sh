#!/bin/bash
# A run on a SLURM cluster, one task per GPU, that is warned before its time is up, saves itself and goes back into the queue:
#   sbatch configs/trainer/slurm.sh --config configs/pretrain/mae_base_800.yaml --config configs/trainer/one_node.yaml
#   sbatch --nodes 4 configs/trainer/slurm.sh --config configs/pretrain/mae_huge_800.yaml --config configs/trainer/fsdp.yaml
# Set the sizes below, or give them to sbatch. The folder of the runs must be one that all nodes see. PYTHON names the interpreter,
# RUN the run's folder name (default: the job's name and number, which it keeps when it is requeued).
#
# 120 s before the end SLURM sends SIGUSR1 to every task (not to this script: that would take B:USR1). mae_vlm then writes one checkpoint,
# and its first process, nobody else, calls `scontrol requeue`; the next start goes on from there through --ckpt_path auto. After
# a preemption or a dead node SLURM requeues by itself (--requeue), and the run goes on from its newest whole checkpoint.
#SBATCH --job-name=mae_vlm
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x_%j.out
set -euo pipefail

if [ -z "${MASTER_ADDR:-}" ]; then
    MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
fi
MASTER_PORT=${MASTER_PORT:-$((15000 + SLURM_JOB_ID % 10000))} # jobs that share a node differ in it
export MASTER_ADDR MASTER_PORT
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1} # srun no longer takes it over from sbatch by itself

# a task that fails takes the others with it, instead of letting them wait for it
exec srun --kill-on-bad-exit=1 "${PYTHON:-python}" -m mae_vlm fit \
    --name "${RUN:-$SLURM_JOB_NAME-$SLURM_JOB_ID}" --ckpt_path auto \
    --trainer.num_nodes "$SLURM_JOB_NUM_NODES" --trainer.devices "$SLURM_NTASKS_PER_NODE" "$@"
