#!/usr/bin/env bash
# Makes the root file systems of the stand-in images: Debian by mmdebstrap, as there is no registry.
#
#   roots.sh trixie      imports standin/trixie:root, where it is not there yet
#   roots.sh bookworm    the same with Python 3.11, for vLLM's CPU build
#
# A root is kept as a file in LLM_E2E_CACHE (~/.cache/llm-backend/e2e). The machine's certificates go
# into it, so that pip works behind a proxy: never publish such an image.
set -euo pipefail
here=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=tests/e2e/ground/sources.sh
. "$here/sources.sh"

cache=${LLM_E2E_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/llm-backend/e2e}
readonly BUNDLE=/etc/ssl/certs/ca-certificates.crt

# root SUITE PACKAGES: the image standin/SUITE:root, made anew when what it is made of changes.
root() {
  local suite=$1 key file work options=(
    --variant=minbase --include="$2" --aptopt='APT::Install-Recommends "false"'
    --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*'
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*'
    --customize-hook="copy-in $BUNDLE /etc/ssl/certs"
  )
  key=$(cat $BUNDLE - <<<"${options[*]}" | sha256sum | cut -c 1-12)
  file=$cache/$suite-$key.tar
  if [[ -z $(docker image ls --quiet "standin/$suite:$key") ]]; then
    if [[ ! -e $file ]]; then
      mkdir -p "$cache"
      work=$(mktemp --directory "$cache/new.XXXXXX")
      # shellcheck disable=SC2064 # the folder of now
      trap "rm -rf '$work'" EXIT
      sources_of "$suite" >"$work/debian.sources"
      mmdebstrap --quiet "${options[@]}" "$suite" "$work/root.tar" "$work/debian.sources"
      rm -f "$cache/$suite"-*.tar # earlier ones
      mv "$work/root.tar" "$file"
    fi
    docker import \
      --change "ENV PIP_CERT=$BUNDLE SSL_CERT_FILE=$BUNDLE REQUESTS_CA_BUNDLE=$BUNDLE" \
      "$file" "standin/$suite:$key" >/dev/null
  fi
  docker tag "standin/$suite:$key" "standin/$suite:root"
}

case "${1-}" in
  trixie) root trixie python3,python3-venv,python3-pip,python3-yaml,redis-server,prometheus,haproxy,tini,curl,wget,ca-certificates ;;
  bookworm) root bookworm python3,python3-pip,curl,ca-certificates,libnuma1,libgomp1 ;;
  *) echo "roots.sh trixie | bookworm" >&2 && exit 2 ;;
esac
