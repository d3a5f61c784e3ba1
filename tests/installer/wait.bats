#!/usr/bin/env bats
# lib/wait.sh

setup() {
  load lib
  export COUNT=${BATS_TEST_TMPDIR}/count
  : >"${COUNT}"
}

@test "wait_until: what is there already takes no word" {
  lib 'wait_until "the thing" echo noise'
  expect 0
  same '' "${output}"
}

@test "wait_until: says what it waits for, and that it came" {
  lib 'f() { echo x >>"${COUNT}"; (($(wc -l <"${COUNT}") >= 3)); }; wait_until --interval 0 --deadline 60 "etcd members" f'
  expect 0 'waiting for etcd members (' 'of at most 60 s)' 'etcd members: there after'
  same 1 "$(grep -c 'waiting for' <<<"${output}")"
}

@test "wait_until: progress lines now and then" {
  WAIT_PROGRESS=0 lib 'f() { echo x >>"${COUNT}"; (($(wc -l <"${COUNT}") >= 3)); }; wait_until --interval 0 --deadline 60 "etcd members" f'
  expect 0
  same 2 "$(grep -c 'waiting for' <<<"${output}")"
}

@test "wait_until: in the end the name and the last output, stderr too; no line of the ERR trap for each try" {
  lib 'trap_errors; f() { echo "one"; ls /no/such/file; echo UNREACHABLE; }; wait_until --deadline 8 --interval 9 "the API" f || exit 3'
  expect 3 'gave up waiting for the API after' 'the last try: one' '/no/such/file'
  refuse UNREACHABLE 'a command failed'
}

@test "wait_until: a silent failure has its exit code told" {
  lib 'f() { return 9; }; wait_until --deadline 8 --interval 9 "the API" f'
  expect 1 'exit code 9, no output'
}

@test "wait_until: no time at all is one try" {
  lib 'f() { echo x >>"${COUNT}"; return 9; }; wait_until --deadline 0 "the API" f'
  expect 1 'gave up waiting for the API'
  refuse 'waiting for the API ('
}

@test "wait_until: a command that hangs is ended at the deadline, and nothing of it is left" {
  lib 'f() { echo half; sleep 1000 & echo "$!" >"${COUNT}"; wait; }; wait_until --deadline 5 "the API" f'
  expect 1 'gave up waiting for the API' 'half' 'it did not answer in time'
  gone "$(<"${COUNT}")"
}

@test "wait_until: wrong use, table" {
  local row
  for row in '' 'what' '--deadline x what true' '--deadline' '--interval -1 what true' '--timeout 3 what true' '--interval 1'; do
    echo "row: ${row}"
    lib "wait_until ${row}"
    expect 64 'wait_until: '
  done
}
