#!/usr/bin/env bash
# Makes everything run: a virtual environment of its own, the locked packages, gateway and model.
#
#   bash scripts/start_all.sh [--setup local|compose] [--model ID] [--yes] [--detach] [--json]
set -euo pipefail
# shellcheck source=scripts/_common.sh
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/_common.sh"

# install_command PACKAGE...: the command that installs packages of this system.
install_command() {
  local sudo="sudo "
  [[ $(id -u) -ne 0 ]] || sudo=""
  if command -v apt-get >/dev/null; then
    echo "${sudo}apt-get install -y $*"
  elif command -v dnf >/dev/null; then
    echo "${sudo}dnf install -y python3.12"
  elif command -v brew >/dev/null; then
    echo "brew install python@3.13"
  else
    echo "install Python 3.11 or newer with venv, as your system does it"
  fi
}

# find_python: prints the first Python that can make the environment, or says what to install.
find_python() {
  local name version recent="" old=""
  for name in python3.13 python3.12 python3.11 python3; do
    version=$("$name" -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null) || continue
    if ! "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      old=$version
    elif "$name" -c 'import ensurepip, venv' 2>/dev/null; then
      echo "$name"
      return
    else
      recent=${recent:-$name}
    fi
  done
  if [[ -n $recent ]]; then
    die "$recent cannot make virtual environments: venv or ensurepip is missing." \
      "Type: $(install_command "$recent-venv")"
  elif [[ -n $old ]]; then
    die "Python $old is too old: 3.11 or newer is needed." \
      "Type: $(install_command python3.11 python3.11-venv)"
  fi
  die "There is no Python 3." "Type: $(install_command python3 python3-venv)"
}

# requirements OPTION...: prints what these options of start need.
requirements() {
  case " $* " in
    *" --setup compose "* | *" --setup=compose "*) echo base ;;
    *) echo base local ;;
  esac
}

python=$ROOT/.venv/bin/python
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  python=$(find_python)
fi
read -ra names <<<"$(requirements "$@")"
"$python" -I "$ROOT/llm_backend/cli/bootstrap.py" "$ROOT" "${names[@]}"
run_cli start "$@"
