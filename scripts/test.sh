#!/usr/bin/env bash
# Makes the environment with the test extra and runs the tests.
#
#   bash scripts/test.sh [--fast | --all] [arguments of pytest]
#
#   (nothing)  all but what is marked slow, parity, browser, learning or soak
#   --fast     also without what is marked medium
#   --all      everything; parity is skipped without torch, browser without a Chromium
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh

marks="not slow and not parity and not browser and not learning and not soak"
case "${1:-}" in
  --fast)
    marks="$marks and not medium"
    shift
    ;;
  --all)
    marks=""
    shift
    ;;
  -h | --help)
    sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p;}' "${BASH_SOURCE[0]}"
    exit
    ;;
esac

make_environment test
# A file's tests stay in one process, which compiles what they share once.
exec "$VENV/bin/python" -m pytest -n logical --maxprocesses 8 --dist loadfile -m "$marks" "$@"
