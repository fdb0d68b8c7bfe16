#!/usr/bin/env bash
# Runs the whole pipeline on the bundled pictures: environment, training, evaluation, report.
#
#   bash scripts/quickstart.sh [arguments of experiments/pipeline.py]
#
# Run again, it goes on where it stopped. See scripts/env.sh for the settings of the environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh

# shellcheck disable=SC2119 # the arguments are the pipeline's
make_environment
exec "$VENV/bin/python" experiments/pipeline.py --preset quickstart "$@"
