#!/usr/bin/env bash
# Switches off the vendor's repositories: a node in a closed network would wait for each of them, and one in an open network
# would mix in packages that the site has not approved. The files stay as the vendor wrote them but for that one key, so
# `dnf --enablerepo=...` works; a site puts a file of its own beside them. Credentials go: an image is copied by many. A
# variable in their place ($auth_u, which UOS fills when it is activated) is none, and stays.
# Arguments: [root of the tree, for tests; default: the running one]. Safe to run twice.
set -Eeuo pipefail

readonly ROOT=${1:-}
readonly NOTE='# Switched off by the node image: the site names its repositories in a file of its own.'

main() {
  local file
  for file in "${ROOT}"/etc/yum.repos.d/*.repo; do
    [[ -f ${file} ]] || continue
    # The key goes right behind the name of each section; where the vendor had it, it goes from there.
    awk -v note="${NOTE}" '
      $0 == note { next }
      /^[ \t]*\[/ { print; print note; print "enabled=0"; next }
      /^[ \t]*enabled[ \t]*[=:]/ { next }
      /^[ \t]*(proxy_)?(username|password)[ \t]*[=:]/ && !/[=:][ \t]*\$/ { next }
      { gsub(/:\/\/[^\/@$ \t]+@/, "://"); print }
    ' "${file}" >"${file}.new"
    cat "${file}.new" >"${file}"
    rm -f "${file}.new"
  done
}

main
