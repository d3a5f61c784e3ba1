#!/bin/bash
# Stands in for dpkg when apt installs into a tree: unpacking runs natively, scripts run inside the tree.
#
# Unpacking a foreign tree with its own, emulated dpkg takes several times as long. Dependencies are not this dpkg's
# to judge while it unpacks (it takes "Architecture: all" for its own architecture); the tree's dpkg checks them when
# it configures.
#
# Arguments: those of dpkg. Environment: TREE.
set -Eeuo pipefail

: "${TREE?}"

case " $* " in
  *" --unpack "*) exec dpkg --root="${TREE}" --force-depends --force-unsafe-io "$@" ;;
  *) exec env --unset=TMPDIR --unset=APT_CONFIG chroot "${TREE}" dpkg --force-unsafe-io "$@" ;;
esac
