#!/usr/bin/env bash
# switch_model.sh [ID]: makes another model the awake one; without an ID, choose from a table.
set -euo pipefail
# shellcheck source=scripts/_common.sh
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/_common.sh"

run_cli switch "$@"
