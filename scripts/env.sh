# shellcheck shell=bash
# Makes the project's Python environment. Sourced, not run:
#
#   source scripts/env.sh
#   make_environment [extra ...]     # afterwards "$VENV/bin/python" has the package and these extras
#
# The newest Python from 3.11 up for which every wheel can be had is taken. A second call with
# nothing changed takes about a second. Settings, all optional:
#
#   MMRLHF_PYTHON       the interpreter to use, instead of searching
#   MMRLHF_VENV         where the environment lies (default: .venv beside pyproject.toml)
#   MMRLHF_ACCELERATOR  cuda12, cuda13, tpu or none, instead of looking at the machine
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${MMRLHF_VENV:-$ROOT/.venv}"
STAMP="$VENV/mmrlhf-installed"

say() { printf '[env] %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 2
}

# python_version PYTHON: prints "3.12" if PYTHON runs and can carry the package: CPython from 3.11
# up, a final release with the GIL, 64 bits, able to make environments. Fails otherwise, as the
# shims of version managers do when their version is not selected.
python_version() {
  "$1" -I - 2>/dev/null <<'PYTHON'
import ensurepip, struct, sys, sysconfig, venv
fit = (
    sys.version_info >= (3, 11)
    and sys.version_info.releaselevel == "final"
    and sys.implementation.name == "cpython"
    and struct.calcsize("P") == 8
    and not sysconfig.get_config_var("Py_GIL_DISABLED")
)
print("%d.%d" % sys.version_info[:2] if fit else "", end="")
sys.exit(not fit)
PYTHON
}

# find_pythons: prints "VERSION PATH" for every interpreter that fits, newest version first and, within
# a version, PATH before version managers' folders.
find_pythons() {
  local name candidate version
  {
    for name in python3.14 python3.13 python3.12 python3.11 python3; do
      type -aP "$name" || true
    done
    for candidate in "${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}"/versions/*/bin/python; do
      [[ ! -x $candidate ]] || printf '%s\n' "$candidate"
    done
  } | while IFS= read -r candidate; do
    [[ $candidate != "$VENV"/* ]] || continue # an active environment that is about to be replaced
    if version="$(python_version "$candidate")"; then printf '%s %s\n' "$version" "$candidate"; fi
  done | sort -s -t. -k1,1nr -k2,2nr | awk '!seen[$1]++'
}

# accelerator_extra: prints the extra that this machine's accelerator needs, or nothing.
accelerator_extra() {
  local machine driver
  if [[ -n ${MMRLHF_ACCELERATOR:-} ]]; then
    case "$MMRLHF_ACCELERATOR" in
      none) ;;
      cuda12 | cuda13 | tpu) echo "$MMRLHF_ACCELERATOR" ;;
      *) die "MMRLHF_ACCELERATOR=$MMRLHF_ACCELERATOR: must be cuda12, cuda13, tpu or none" ;;
    esac
    return
  fi
  machine="$(uname -sm)"
  if [[ $machine == "Linux x86_64" || $machine == "Linux aarch64" ]] &&
    driver="$(nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null | sort -V | head -n 1)"; then
    # CUDA 13 needs driver 580 and compute capability 7.5, CUDA 12 needs driver 525.
    awk -F'[., ]+' '
      $1 >= 580 && ($(NF-1) > 7 || ($(NF-1) == 7 && $NF >= 5)) { print "cuda13"; exit }
      $1 >= 525 { print "cuda12"; exit }
      { print "[env] NVIDIA driver " $1 " is older than 525, too old for CUDA 12: going without the GPU" >"/dev/stderr" }
    ' <<<"$driver"
  elif compgen -G "/dev/accel[0-9]*" >/dev/null || is_tpu_vfio; then
    echo tpu
  fi
}

# is_tpu_vfio: newer TPU machines pass their chips through VFIO; 0x1ae0 is Google's PCI vendor.
is_tpu_vfio() {
  compgen -G "/dev/vfio/[0-9]*" >/dev/null &&
    grep -qsx 0x1ae0 /sys/bus/pci/drivers/vfio-pci/*/vendor
}

# create_venv PYTHON: makes "$VENV" with PYTHON, replacing an environment that is there.
create_venv() {
  if [[ -e $VENV ]]; then
    [[ -f $VENV/pyvenv.cfg ]] || die "$VENV is there but no Python environment; move it away or set MMRLHF_VENV"
    rm -rf "$VENV"
  fi
  say "making $VENV with $1 (Python $(python_version "$1"))"
  "$1" -m venv "$VENV"
}

# install_package EXTRAS: installs the package, editable, into "$VENV" from wheels only, and stamps
# the environment with what was installed. EXTRAS: "test,dev" or "".
install_package() {
  say "installing the package${1:+ with $1}; the first time takes a few minutes"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: \
    --editable "$ROOT${1:+[$1]}" || return 1
  printf '%s\n%s\n' "$ROOT $(cksum <"$ROOT/pyproject.toml")" "$1" >"$STAMP"
}

# venv_fits: whether "$VENV" works, is new enough, and is of MMRLHF_PYTHON's version where that is set.
venv_fits() {
  local have want
  have="$(python_version "$VENV/bin/python")" && "$VENV/bin/python" -c "import pip" 2>/dev/null || return 1
  [[ -n ${MMRLHF_PYTHON:-} ]] || return 0
  want="$(python_version "$MMRLHF_PYTHON")" && [[ $have == "$want" ]]
}

# make_environment [EXTRA ...]: see the top of this file.
make_environment() {
  local accelerator fingerprint installed="" extras pythons python
  accelerator="$(accelerator_extra)"
  fingerprint="$ROOT $(cksum <"$ROOT/pyproject.toml")"

  if venv_fits; then
    # The stamp's two lines: what was installed from where, and the extras so far.
    if [[ -f $STAMP ]]; then installed="$(sed -n 2p "$STAMP")"; fi
    extras="$(join_extras "$installed" "$accelerator" "$@")"
    if [[ -f $STAMP && "$(sed -n 1p "$STAMP")" == "$fingerprint" && $extras == "$installed" ]]; then return; fi
    if install_package "$extras"; then return; fi
    [[ ! -f $STAMP ]] || die "the installation failed; see pip's messages above. Remove $VENV to start afresh"
  fi

  extras="$(join_extras "$installed" "$accelerator" "$@")"
  if [[ -n ${MMRLHF_PYTHON:-} ]]; then
    python_version "$MMRLHF_PYTHON" >/dev/null ||
      die "MMRLHF_PYTHON=$MMRLHF_PYTHON does not run, is older than 3.11 or has no venv and ensurepip"
    pythons="$MMRLHF_PYTHON"
  else
    pythons="$(find_pythons | cut -d' ' -f2-)"
    [[ -n $pythons ]] ||
      die "no Python from 3.11 up with venv and ensurepip was found; install one or set MMRLHF_PYTHON"
  fi
  while IFS= read -r python <&3; do
    create_venv "$python"
    if install_package "$extras"; then return; fi
    say "not everything could be installed for $python"
  done 3<<<"$pythons"
  die "the installation failed; see pip's messages above${accelerator:+ (MMRLHF_ACCELERATOR=none goes without $accelerator)}"
}

# join_extras [EXTRAS ...]: all of them, sorted, each once, comma-separated.
join_extras() { printf '%s\n' "$@" | tr , '\n' | sed '/^$/d' | sort -u | paste -sd, -; }
