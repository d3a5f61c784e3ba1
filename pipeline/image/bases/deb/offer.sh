#!/bin/bash
# Runs after apt has fetched the signed indexes: offers already downloaded packages, if they are what the indexes say.
#
# apt takes an archive of the right name and size for the right one; nothing is trusted by name here (decision D10).
#
# Environment: TREE, PACKAGE_CACHE (downloaded packages), APT_CONFIG (of mmdebstrap).
set -Eeuo pipefail

: "${TREE?}" "${PACKAGE_CACHE?}"

archives=${TREE}/var/cache/apt/archives
cd "${PACKAGE_CACHE}"

indexes() {
  local index
  # shellcheck disable=SC2016  # it is apt's variable
  while read -r index; do
    if [[ -e ${index} ]]; then
      /usr/lib/apt/apt-helper cat-file "${index}"
    fi
  done < <(apt-get indextargets --format '$(FILENAME)' 'Created-By: Packages')
}

# Prints "sha256  archive" for every version of every package in the indexes, as apt names its archives.
checksums() {
  indexes | LC_ALL=C grep -E '^(Package|Version|Architecture|SHA256): ' | LC_ALL=C awk '
    $1 == "Package:" { package = $2 }
    $1 == "Version:" { version = $2; gsub(/:/, "%3a", version) }
    $1 == "Architecture:" { architecture = $2 }
    $1 == "SHA256:" { print $2 "  " package "_" version "_" architecture ".deb" }
  '
}

mapfile -t known < <(find . -maxdepth 1 -name '*.deb' -printf '%f\n')
# Only those that are here and in the indexes: what belongs to other releases is left alone.
wanted=$(awk 'NR == FNR { here[$1]; next } ($2 in here) && !seen[$0]++' <(printf '%s\n' "${known[@]}") <(checksums))
if [[ -z ${wanted} ]]; then
  exit 0
fi
sums=$(LC_ALL=C sha256sum --check --strict <<<"${wanted}" 2>/dev/null) || true
while IFS=: read -r archive verdict; do
  if [[ ${verdict} != ' OK' ]]; then
    echo "${archive} in the package cache is not what the index says: it is downloaded again"
    rm -f "${archives}/${archive}" "${archive}"
  fi
done <<<"${sums}"
sed -n 's/: OK$//p' <<<"${sums}" |
  xargs --no-run-if-empty -d '\n' cp --link --no-clobber --target-directory="${archives}"
