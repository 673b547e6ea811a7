#!/usr/bin/env bash
# Shows what runs and how it does: `llm-backend status`. Status 0: well, 1: degraded, 69: not running.
set -euo pipefail
# shellcheck source=scripts/_common.sh
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/_common.sh"

run_cli status "$@"
