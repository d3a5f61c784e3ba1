#!/bin/sh
# Stands in for py3compile inside a tree while packages are configured: configure.sh has it done meanwhile.
IFS=$(printf '\037')
printf '%s\n' "$*" >/run/py3compile.queue
