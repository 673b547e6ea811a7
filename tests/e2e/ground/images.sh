#!/usr/bin/env bash
# Builds the stand-in images, standin/NAME:ground; what has not changed is taken from Docker's cache.
#
#   images.sh           those of the stack
#   images.sh --vllm    real vLLM on the CPU too, around the environment that `make vllm-cpu` makes
set -euo pipefail
here=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(cd -P -- "$here/../../.." && pwd)

# build NAME FOLDER: its base images are local, so no registry is asked for anything.
build() {
  DOCKER_BUILDKIT=1 docker build --quiet --target "$1" --tag "standin/$1:ground" \
    --build-context "llm_backend=$root/llm_backend" "$2" >/dev/null
}

bash "$here/roots.sh" trixie
for name in python redis prometheus haproxy grafana vllm; do
  build "$name" "$here"
done
if [[ ${1-} == --vllm ]]; then
  bash "$here/roots.sh" bookworm
  build vllm-cpu "$here/vllm_cpu"
fi
