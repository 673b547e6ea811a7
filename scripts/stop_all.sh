#!/usr/bin/env bash
# Ends the gateway and every engine: `llm-backend stop`. Takes its options; see --help.
set -euo pipefail
# shellcheck source=scripts/_common.sh
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/_common.sh"

run_cli stop "$@"
