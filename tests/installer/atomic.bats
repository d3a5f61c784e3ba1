#!/usr/bin/env bats
# lib/atomic.sh

setup() {
  load lib
  T=${BATS_TEST_TMPDIR}/dir/target
  mkdir "${BATS_TEST_TMPDIR}/dir"
}

# Asserts that nothing but the target is in its directory.
clean() { same target "$(ls -A "${T%/*}")"; }

@test "write_file: new, again, other content, other mode" {
  lib 'echo one | write_file "$1" 0640; changes_count' "${T}"
  expect 0 "written ${T}" $'\n1'
  same 'one 640' "$(<"${T}") $(stat -c %a "${T}")"
  lib 'echo one | write_file "$1" 640; changes_count' "${T}"
  same 1 "${output}"
  lib 'echo two | write_file "$1" 0640; echo two | write_file "$1" 0600; changes_count' "${T}"
  expect 0 $'\n3'
  same 'two 600' "$(<"${T}") $(stat -c %a "${T}")"
  clean
}

@test "write_file: every byte arrives, also zeros and no newline at the end; a missing directory is made" {
  head -c 300000 /dev/urandom >"${BATS_TEST_TMPDIR}/random"
  lib 'write_file "$1/a/b/c d" 0644 <"$2"; cat "$2" | write_file "$1/piped" 0644' "${T%/*}" "${BATS_TEST_TMPDIR}/random"
  expect 0
  cmp "${BATS_TEST_TMPDIR}/random" "${T%/*}/a/b/c d"
  cmp "${BATS_TEST_TMPDIR}/random" "${T%/*}/piped"
}

@test "write_file: the mode is there before the name, whatever the umask" {
  lib 'umask 000; echo secret | write_file "$1" 0600' "${T}"
  same 600 "$(stat -c %a "${T}")"
}

@test "write_file: an empty file is wanted from a file, and a failure from a pipe" {
  lib 'write_file "$1" 0644 </dev/null' "${T}"
  expect 0
  [[ -f ${T} && ! -s ${T} ]]
  echo old >"${T}"
  lib 'false | write_file "$1" 0644' "${T}"
  expect 1 'nothing came to write'
  same old "$(<"${T}")"
  clean
}

@test "write_file: a link is replaced, not followed" {
  echo other >"${BATS_TEST_TMPDIR}/other"
  ln -s ../other "${T}"
  lib 'echo other | write_file "$1" 0644' "${T}"
  expect 0
  [[ ! -L ${T} ]]
  same other "$(<"${BATS_TEST_TMPDIR}/other")"
}

@test "write_file: a directory, a file in place of the directory" {
  mkdir "${T}"
  lib 'echo x | write_file "$1" 0644' "${T}"
  expect 1 'it is a directory'
  : >"${BATS_TEST_TMPDIR}/file"
  lib 'echo x | write_file "$1/target" 0644' "${BATS_TEST_TMPDIR}/file"
  expect 1
}

@test "write_file: wrong use, table" {
  local row
  for row in '' 'relative 0644' '/tmp/x' '/tmp/x 9' '/tmp/x u+x' '/tmp/ 0644' '/tmp/x 0888'; do
    lib "write_file ${row} </dev/null"
    expect 64 'write_file'
  done
}

@test "write_file: a full disk leaves the old file and nothing else" {
  needs_root
  in_small_disk 'echo old >target; head -c 200000 /dev/zero | write_file "${PWD}/target" 0644 || echo "code $?"; ls -A; cat target; echo new | write_file "${PWD}/target" 0644; cat target'
  expect 0 'No space left on device' 'was not written and is as it was' $'code 1\ntarget\nold\n' $'\nnew'
}

@test "write_file: a killed run leaves the old file, and the next one cleans up" {
  echo old >"${T}"
  mkfifo "${BATS_TEST_TMPDIR}/fifo"
  bash -c ". '${PAYLOAD}/lib/utils.sh'; write_file '${T}' 0644 <'${BATS_TEST_TMPDIR}/fifo'" 3>&- &
  local id=$! left
  exec 9>"${BATS_TEST_TMPDIR}/fifo"
  echo half >&9
  until_true compgen -G "${T%/*}/.target.new.*"
  kill -9 "${id}"
  wait "${id}" || true
  exec 9>&-
  same old "$(<"${T}")"
  left=$(compgen -G "${T%/*}/.target.new.*" || true)
  [[ -n ${left} ]]
  lib 'echo new | write_file "$1" 0644' "${T}"
  expect 0
  same new "$(<"${T}")"
  clean
}

@test "note_change and changes_count: a line each; without a file, nothing" {
  lib 'note_change one; note_change $'"'two\nlines'"'; changes_count'
  same 2 "${output}"
  same $'one\ntwo lines' "$(<"${CLUSTER_CHANGES}")"
  CLUSTER_CHANGES='' lib 'note_change one; changes_count'
  same 0 "${output}"
  CLUSTER_CHANGES=${BATS_TEST_TMPDIR}/none lib 'changes_count'
  same 0 "${output}"
}

@test "swap_link: new, again, another target, a file in its place" {
  lib 'swap_link a "$1"; swap_link a "$1"; changes_count' "${T}"
  expect 0 $'\n1'
  lib 'swap_link "releases/b c" "$1"' "${T}"
  same 'releases/b c' "$(readlink "${T}")"
  rm "${T}"
  echo file >"${T}"
  lib 'swap_link a "$1"' "${T}"
  expect 0
  same a "$(readlink "${T}")"
  clean
}

@test "swap_link: a link to a directory is turned over, not filled" {
  mkdir "${BATS_TEST_TMPDIR}/one" "${BATS_TEST_TMPDIR}/two"
  ln -s ../one "${T}"
  lib 'swap_link ../two "$1"' "${T}"
  same ../two "$(readlink "${T}")"
  same '' "$(ls -A "${BATS_TEST_TMPDIR}/one")"
}

@test "swap_link: at no moment is there no link" {
  lib 'swap_link a "$1"; (for i in {1..60}; do swap_link "a${i}" "$1"; done) 2>/dev/null & while kill -0 $! 2>/dev/null; do [[ -L $1 ]] || { echo GAP; break; }; done; wait' "${T}"
  refuse GAP
}

@test "swap_link: a directory is there; wrong use" {
  mkdir "${T}"
  lib 'swap_link a "$1"' "${T}"
  expect 1 'a directory is there'
  lib 'swap_link a relative'
  expect 64
  lib 'swap_link "" /x'
  expect 64
}
