#!/usr/bin/env bats
# lib/elf.sh

setup() {
  load lib
  DIR=${BATS_TEST_TMPDIR}/tree
  mkdir -p "${DIR}/a b"
}

# Writes the first 20 bytes of an ELF file: class, byte order, the two bytes of the machine (hexadecimal), file.
elf() { printf '%b' "\\x7fELF\\x$1\\x$2\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\x$3\\x$4" >"$5"; }

@test "elf_machine: table" {
  local row class order one two wanted
  for row in '02 01 3e 00 amd64' '02 01 b7 00 arm64' '01 01 28 00 arm' '01 01 03 00 i386' '01 01 3e 00 x32' '02 02 00 16 s390x' '02 01 15 00 ppc64el' '02 01 f3 00 riscv64' \
    '02 02 3e 00 unknown' '02 02 00 b7 unknown' '01 01 b7 00 unknown' '02 01 ff ff unknown' '00 00 3e 00 unknown' '02 01 3e 01 unknown'; do
    read -r class order one two wanted <<<"${row}"
    elf "${class}" "${order}" "${one}" "${two}" "${DIR}/file"
    echo "row: ${row}"
    lib 'elf_machine "$1"' "${DIR}/file"
    expect 0
    same "${wanted}" "${output}"
  done
}

@test "elf_machine: a real program" {
  case $(uname -m) in
    x86_64) wanted=amd64 ;;
    aarch64) wanted=arm64 ;;
    *) skip "no name for this machine" ;;
  esac
  lib 'elf_machine "$1"' "$(command -v env)"
  same "${wanted}" "${output}"
}

@test "elf_machine: no ELF, an empty file, a truncated one, one byte less than needed" {
  echo '#!/bin/bash' >"${DIR}/script"
  : >"${DIR}/empty"
  elf 02 01 3e 00 "${DIR}/full"
  local row
  for row in script:none empty:none; do
    lib 'elf_machine "$1"' "${DIR}/${row%:*}"
    expect 0
    same "${row#*:}" "${output}"
  done
  for row in 3:none 4:unknown 5:unknown 19:unknown 20:amd64; do
    head -c "${row%:*}" "${DIR}/full" >"${DIR}/short"
    lib 'elf_machine "$1"' "${DIR}/short"
    same "${row#*:}" "${output}"
  done
}

@test "elf_machine: cannot be read" {
  lib 'elf_machine /no/such/file'
  expect 1 'cannot be read'
}

@test "elf_check_tree: all are right, and what is no ELF is nobody's business" {
  elf 02 01 b7 00 "${DIR}/one"
  elf 02 01 b7 00 "${DIR}/a b/two"
  echo text >"${DIR}/a b/three"
  lib 'elf_check_tree "$1" arm64' "${DIR}"
  expect 0
  same '' "${output}"
}

@test "elf_check_tree: every foreign and every damaged one is told" {
  elf 02 01 b7 00 "${DIR}/right"
  elf 02 01 3e 00 "${DIR}/a b/wrong"
  elf 01 01 28 00 "${DIR}/"$'new\nline'
  printf '\x7fELF' >"${DIR}/short"
  lib 'elf_check_tree "$1" arm64' "${DIR}"
  expect 1 'a b/wrong is for amd64, not for arm64' 'line is for arm, not for arm64' 'short is for unknown'
  refuse right
}

@test "elf_check_tree: empty, missing, and a file" {
  lib 'elf_check_tree "$1" amd64' "${DIR}"
  expect 0
  lib 'elf_check_tree /no/such amd64'
  expect 1 'is no readable directory'
  lib 'elf_check_tree /etc/hostname amd64'
  expect 1 'is no readable directory'
}
