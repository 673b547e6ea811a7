# shellcheck shell=bash
# Read by the other scripts: where this machine's apt gets Debian, for another release of it.

# shellcheck source=/dev/null
release() { (. /etc/os-release && echo "$VERSION_CODENAME"); }

# sources_of SUITE: prints this machine's own Debian sources, for that release. Of its entries those
# of the release itself are taken: neither its updates nor somebody else's packages.
sources_of() {
  local file own
  own=$(release)
  for file in /etc/apt/sources.list.d/*.sources; do
    [[ -f $file ]] || continue
    awk 'BEGIN { RS = ""; ORS = "\n\n" } /Suites:( [^\n]*)? '"$own"'( |\n|$)/' "$file" |
      sed -E "/^#/d; s/^Suites:.*/Suites: $1/"
  done
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [[ -f $file ]] || continue
    sed -nE "s/^deb +(\[([^]]*)\] +)?([^ ]+) +$own +(.*)/Types: deb\nURIs: \3\nSuites: $1\nComponents: \4\n/p" "$file"
  done
}
