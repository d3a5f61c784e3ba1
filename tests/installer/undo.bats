#!/usr/bin/env bats
# lib/undo.sh

setup() {
  load lib
  export SAID=${BATS_TEST_TMPDIR}/said
}

@test "undo: newest first, words kept as they are, then nothing is left" {
  lib 'say() { printf "[%s]" "$@" >>"${SAID}"; }; undo_push say "a b" "" "*"; undo_push say "\$(x)" '"\$'two\nlines'"' "q'"'"'q"; undo_run; undo_run'
  expect 0 'undone: say'
  same $'[$(x)][two\nlines][q][a b][][*]' "$(sed "s/\[q'q\]/[q]/;s/\[qq\]/[q]/" "${SAID}")"
  [[ ! -s ${STATE_DIR}/undo ]]
}

@test "undo: another process finds it, also after kill -9" {
  lib 'undo_push touch "${SAID}"; kill -9 $$'
  expect 137
  same 600 "$(stat -c %a "${STATE_DIR}/undo")"
  lib undo_run
  expect 0
  [[ -e ${SAID} ]]
}

@test "undo: what failed stays, the rest is done" {
  lib 'undo_push touch "${SAID}.1"; undo_push false; undo_push touch "${SAID}.2"; undo_run'
  expect 1 'undoing with false failed with exit code 1; it stays in'
  [[ -e ${SAID}.1 && -e ${SAID}.2 ]]
  same false "$(<"${STATE_DIR}/undo")"
}

@test "undo: errexit is on in a function; its words are not told" {
  lib 'f() { false; echo UNREACHABLE; }; undo_push f SECRET; undo_run || echo failed'
  expect 0 failed
  refuse UNREACHABLE SECRET
}

@test "undo: killed while it runs, what is done is not done again" {
  lib 'undo_push touch "${SAID}.never"; undo_push bash -c "kill -9 \$PPID_OF_ALL"; undo_push touch "${SAID}"; export PPID_OF_ALL=$$; undo_run'
  expect 137
  [[ -e ${SAID} && ! -e ${SAID}.never ]]
  same 2 "$(wc -l <"${STATE_DIR}/undo")"
}

@test "undo_clear, and an empty list" {
  lib 'undo_push touch "${SAID}"; undo_clear; undo_run; undo_clear'
  expect 0
  [[ ! -e ${SAID} ]]
}

@test "undo_push: without a command" {
  lib undo_push
  expect 64
  lib 'undo_push ""'
  expect 64
}

@test "undo_push: a full disk keeps the list" {
  needs_root
  in_small_disk 'export STATE_DIR=${PWD}; undo_push echo one; head -c 70000 /dev/zero >fill 2>/dev/null || :; undo_push echo "$(head -c 9000 /dev/zero | tr "\0" x)" || echo "code $?"; cat undo'
  expect 0 'code 1' $'\necho one'
}
