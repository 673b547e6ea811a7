#!/usr/bin/env bash
# logs.sh {gateway|MODEL|redis|all} [-f] [-n LINES]: shows a log.
set -euo pipefail
# shellcheck source=scripts/_common.sh
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/_common.sh"

run_cli logs "$@"
