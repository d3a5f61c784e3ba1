#!/usr/bin/env bats
# lib/retry.sh

setup() {
  load lib
  export COUNT=${BATS_TEST_TMPDIR}/count
  : >"${COUNT}"
}

# A function for `lib` that succeeds in its $1st attempt.
FLAKY='flaky() { echo x >>"${COUNT}"; (($(wc -l <"${COUNT}") >= $1)) || { false; echo UNREACHABLE; }; };'

@test "retry: success at once says nothing" {
  lib 'retry -- echo fine'
  expect 0
  same fine "${output}"
}

@test "retry: success in the third attempt, each failure told, errexit on in the function" {
  lib "${FLAKY} retry --attempts 3 --delay 0 -- flaky 3"
  expect 0 'flaky failed with exit code 1 in attempt 1 of 3' 'attempt 2 of 3'
  refuse UNREACHABLE 'giving up'
  same 3 "$(wc -l <"${COUNT}")"
}

@test "retry: errexit is on in the function also where the caller's is off" {
  lib "${FLAKY} outer() { retry --attempts 1 -- flaky 9; }; if outer; then echo WRONG; else echo right; fi"
  expect 0 right
  refuse UNREACHABLE WRONG
}

@test "retry: gives up with the last exit code" {
  lib 'f() { return 42; }; retry --attempts 2 --delay 0 -- f'
  expect 42 'attempt 2 of 2: giving up'
}

@test "retry: the pause doubles up to the limit" {
  lib 'sleep() { echo "pause $1"; }; retry --attempts 6 --delay 1 --max-delay 5 -- false'
  expect 1 $'pause 1\n' $'pause 2\n' $'pause 4\n' $'pause 5\n'
  same 4 "$(grep -c '^pause [1245]$' <<<"$(sort -u <<<"${output}")")"
}

@test "retry: a command that hangs is ended at the deadline, with what it started" {
  lib 'f() { bash -c "sleep 1000; :" & echo "$!" >"${COUNT}"; wait; }; retry --attempts 9 --deadline 5 -- f'
  expect 124 'the deadline of 5 s is over'
  gone "$(<"${COUNT}")"
}

@test "retry: no attempt begins behind the deadline" {
  lib 'retry --attempts 99 --delay 50 --deadline 20 -- false'
  expect 1 'in attempt 1, and the deadline of 20 s is over'
}

@test "retry: the command's arguments are not told, and its input is empty" {
  lib 'f() { cat; return 1; }; echo INPUT | retry --attempts 1 -- f SECRET'
  expect 1 'f failed'
  refuse SECRET INPUT
}

@test "retry: wrong use, table" {
  local row
  for row in '' '--' 'true' '--attempts 0 -- true' '--attempts x -- true' '--attempts' '--delay -1 -- true' '--delay 0.5 -- true' '--tries 3 -- true' '--attempts 3'; do
    echo "row: ${row}"
    lib "retry ${row}"
    expect 64 'retry: '
  done
}
