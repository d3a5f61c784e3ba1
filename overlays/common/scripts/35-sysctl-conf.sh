#!/usr/bin/env bash
# Takes those lines out of /etc/sysctl.conf that would override ours: `sysctl --system` reads it last of all, and Kylin and
# openEuler write values into it that no node works with (net.ipv4.ip_forward=0). Every other line stays. 40-sysctl.sh then
# looks at the result, and at all other files: a package's file that overrides ours is an error that somebody must look at.
# Arguments: [root of the tree, for tests; default: the running one]. Safe to run twice.
set -Eeuo pipefail

readonly ROOT=${1:-}
readonly OURS=${ROOT}/etc/sysctl.d/zz-node.conf
readonly CONFIG=${ROOT}/etc/sysctl.conf

[[ -s ${CONFIG} && -f ${OURS} ]] || exit 0
awk '
  function key_of(line) {
    sub(/^[ \t]*-?[ \t]*/, "", line)
    sub(/[ \t]*=.*/, "", line)
    # "net/ipv4/ip_forward" is another way to write it: a slash first means slashes separate.
    slash = index(line, "/"); dot = index(line, ".")
    if (slash && (!dot || slash < dot)) gsub("/", ".", line)
    return line
  }
  /^[ \t]*([#;]|$)/ || !/=/ { if (FNR != NR) print; next }
  FNR == NR { ours[key_of($0)] = 1; next }
  key_of($0) in ours { print "# removed by the node image, see sysctl.d/zz-node.conf: " $0; next }
  { print }
' "${OURS}" "${CONFIG}" >"${CONFIG}.new"
# Not a rename: the file may be a link's target, and keeps its owner and mode.
cat "${CONFIG}.new" >"${CONFIG}"
rm -f "${CONFIG}.new"
