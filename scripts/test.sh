#!/usr/bin/env bash
# All the checks and tests that this machine can run: `make check` in the project's own environment.
#
#   bash scripts/test.sh           what is there decides what runs; what is left out is named
#   bash scripts/test.sh --vllm    first installs vLLM's CPU build (2.5 GB, Linux on x86_64, Python 3.11)
set -euo pipefail
# shellcheck source=scripts/_common.sh
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/_common.sh"
cd "$ROOT"

# need COMMAND PACKAGE: says how to install what is missing.
need() {
  command -v "$1" >/dev/null || die "$1 is missing." "On Debian and Ubuntu type: sudo apt-get install -y $2"
}

# makes_environments PYTHON: whether it is new enough and has venv.
makes_environments() {
  "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

targets=(check)
case "$*" in
  "") ;;
  --vllm) targets=(vllm-cpu check) ;;
  *) die "'$*' is not an option of test.sh." "There is one: --vllm" ;;
esac

need make make
need git git
need flock util-linux
for python in .venv/bin/python python3.13 python3.12 python3.11 python3 ""; do
  [[ -n $python ]] || die "There is no Python 3.11 or newer that has venv." \
    "On Debian and Ubuntu type: sudo apt-get install -y python3 python3-venv"
  ! makes_environments "$python" || break
done
"$python" -I llm_backend/cli/bootstrap.py "$ROOT" base local dev

for target in "${targets[@]}"; do
  make --no-print-directory --keep-going "$target"
done
