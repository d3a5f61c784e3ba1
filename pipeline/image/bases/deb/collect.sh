#!/bin/bash
# mmdebstrap customize hook: keeps downloaded packages for the next build and what the manifest needs to know.
#
# Arguments: $1 the tree.
# Environment: PACKAGE_CACHE (downloaded packages), RELEASES (directory that takes the signed Release files).
set -Eeuo pipefail

: "${PACKAGE_CACHE?}" "${RELEASES?}"

tree=$1
# There is none of an archive that was made of a lock.
find "${tree}/var/lib/apt/lists" -maxdepth 1 -name '*_InRelease' -exec cp --target-directory="${RELEASES}" {} +
# A link appears at once and whole, so builds that run at the same time can share the directory.
find "${tree}/var/cache/apt/archives" -maxdepth 1 -name '*.deb' -links 1 -exec cp --link --no-clobber --target-directory="${PACKAGE_CACHE}" {} +
