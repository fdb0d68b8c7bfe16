#!/usr/bin/env bash
# Runs one experiment on all GPUs of a SLURM job, one process for each, which find one another by themselves.
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 scripts/launch_slurm.sh \
#     experiments/ppo.py --run /shared/runs/big --mesh data=2,fsdp=8 --resume
#
# As many tasks as GPUs; the run's folder on a disk that all nodes share. PYTHON names the interpreter (default
# .venv/bin/python of the folder in which sbatch was called). Two minutes before the job's time is up, and when
# it is preempted, the run saves and ends with status 75; then the job queues itself again, and with --resume
# goes on.
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
if [[ $# -eq 0 || -z "${SLURM_JOB_ID:-}" ]]; then
  echo "usage: sbatch --nodes=N --gpus-per-node=K --ntasks-per-node=K $0 experiments/NAME.py --mesh ..." >&2
  exit 2
fi
cd "${SLURM_SUBMIT_DIR:-.}"

status=0
srun --kill-on-bad-exit=1 "${PYTHON:-.venv/bin/python}" "$@" || status=$?
if [[ $status -eq 75 ]]; then
  echo "saved: job $SLURM_JOB_ID queues itself again"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
