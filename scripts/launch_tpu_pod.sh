#!/usr/bin/env bash
# Runs one experiment on all hosts of a Cloud TPU slice, one process on each, which find one another by themselves.
#
#   bash scripts/launch_tpu_pod.sh NAME ZONE experiments/ppo.py --run /mnt/shared/big --mesh data=4,fsdp=8
#
# The repository lies at the same place on every host (FOLDER, default ~/mmrlhf_jax) with its environment in
# .venv (there: pip install '.[tpu]'), and the run's folder on a disk that all of them share. Needs gcloud.
set -euo pipefail
if [[ $# -lt 3 ]]; then
  echo "usage: bash $0 NAME ZONE experiments/NAME.py --mesh ..." >&2
  exit 2
fi
name=$1 zone=$2
shift 2
# shellcheck disable=SC2016 # the hosts' HOME
folder=${FOLDER:-'$HOME/mmrlhf_jax'}
printf -v experiment ' %q' "$@"
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
  --command="cd $folder && MMRLHF_JAX_PROCESS=auto .venv/bin/python$experiment"
