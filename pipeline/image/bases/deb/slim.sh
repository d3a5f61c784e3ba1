#!/bin/bash
# mmdebstrap extract hook: takes out of the tree what the filters exclude.
#
# mmdebstrap extracts the essential packages with tar; its own filter for that costs more than the extraction. What dpkg
# unpacks later it filters itself. It matches as fnmatch(3) without flags does, and so does find.
#
# Arguments: $1 the tree.
# Environment: SLIM_CONFIG (dpkg path filters: excluded patterns, then included ones).
set -Eeuo pipefail

: "${SLIM_CONFIG?}"

filters=(-false)
while IFS='=' read -r what pattern; do
  case ${what} in
    path-exclude) filters+=(-o -path ".${pattern}") ;;
    path-include) filters=('(' "${filters[@]}" ')' -not -path ".${pattern}") ;;
    *) ;;
  esac
done <"${SLIM_CONFIG}"

cd "$1"
find . -xdev '(' "${filters[@]}" ')' -not -type d -delete
find . -xdev '(' "${filters[@]}" ')' -type d -empty -delete
