#!/usr/bin/env bash
# download_models.sh [ID]...: brings weights from the model hub; without an ID, choose from a list.
set -euo pipefail
# shellcheck source=scripts/_common.sh
. "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/_common.sh"

run_cli download "$@"
