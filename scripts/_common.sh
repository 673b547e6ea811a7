# shellcheck shell=bash
# What the scripts share: they find their checkout, then hand over to the command line.
#
# Read by the other scripts, never run. They work from any directory and through symbolic links.

ROOT=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
export LLM_BACKEND_ROOT=$ROOT
LLM_BACKEND=$ROOT/.venv/bin/llm-backend

# die LINE...: says what is wrong and ends.
die() {
  printf '%s\n' "Error: $1" "${@:2}" >&2
  exit 1
}

# run_cli COMMAND...: becomes the command line; refuses where nothing is set up yet.
run_cli() {
  if [[ ! -x $LLM_BACKEND ]]; then
    local where=$ROOT/scripts
    [[ $PWD != "$ROOT" ]] || where=scripts
    die "Nothing is set up yet." "Run: bash $where/start_all.sh"
  fi
  exec "$LLM_BACKEND" "$@"
}
