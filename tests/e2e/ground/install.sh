#!/usr/bin/env bash
# Installs a Docker engine, Compose and mmdebstrap on Debian 12 or newer, as root; what works stays.
#
# Debian 12 has no Compose v2. Docker then comes from Debian 13, from wherever this machine's apt gets
# Debian 12; the extra source is there for this one installation, apt's configuration stays as it is.
set -euo pipefail
# shellcheck source=tests/e2e/ground/sources.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/sources.sh"

readonly COMPOSE_MINIMUM=2.24

# has_docker: whether an engine is installed, and a Compose that is new enough.
has_docker() {
  local version
  command -v dockerd >/dev/null && version=$(docker compose version --short 2>/dev/null) &&
    printf '%s\n' "$COMPOSE_MINIMUM" "${version#v}" | sort --version-sort --check=quiet
}

docker=() tools=()
has_docker || docker=(docker.io docker-cli containerd docker-compose docker-buildx)
command -v iptables >/dev/null || tools+=(iptables)
command -v mmdebstrap >/dev/null || tools+=(mmdebstrap)
((${#docker[@]} + ${#tools[@]})) || exit 0
echo "Installing: ${docker[*]} ${tools[*]}"

export DEBIAN_FRONTEND=noninteractive
options=(-qq --no-install-recommends)
if ((${#docker[@]})) && [[ $(release) == bookworm ]]; then
  parts=$(mktemp --directory)
  trap 'rm -rf "$parts"' EXIT
  find /etc/apt/sources.list.d -maxdepth 1 -type f -exec cp --target-directory="$parts" {} +
  sources_of trixie >"$parts/trixie.sources"
  options+=(-o "Dir::Etc::SourceParts=$parts" -o APT::Default-Release=bookworm -o APT::Get::List-Cleanup=false)
  docker=("${docker[@]/%//trixie}") # each as PACKAGE/RELEASE; what they need comes from this release
fi
apt-get "${options[@]}" update
# RUNLEVEL: installing a server does not start it; engine.sh does.
RUNLEVEL=1 apt-get "${options[@]}" install --yes "${docker[@]}" "${tools[@]}" >/dev/null
