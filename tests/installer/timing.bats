#!/usr/bin/env bats
# lib/timing.sh

setup() {
  load lib
  D=${STATE_DIR}/checkpoints/k
  mkdir -p "${D}"
}

# Writes a record: number-name, seconds, result.
record() { printf '{"step":"%s","start":"2026-11-24T22:50:00Z","end":"2026-11-24T22:51:00Z","seconds":%s,"result":"%s","code":0}\n' "${1#*-}" "$2" "$3" >"${D}/$1.json"; }

@test "timing_table: in order, with total" {
  record 010-late 0.1 failed
  record 001-early 62.3 'done'
  record 002-middle 08.9 'done'
  record 003-was 0.0 skipped
  record 009-cut 0.0 running
  lib 'checkpoint_open k; timing_table'
  expect 0
  same 'step result seconds|early done 62.3|middle done 08.9|was skipped 0.0|cut unfinished 0.0|late failed 0.1|total 71.3|' "$(tr -s ' ' <<<"${output}" | sed 's/ *$//' | tr '\n' '|')"
}

@test "timing_table: nothing yet, and a damaged record" {
  lib 'checkpoint_open k; timing_table'
  expect 0
  same 2 "${#lines[@]}"
  : >"${D}/001-empty.json"
  echo '{"step":' >"${D}/002-half.json"
  record 003-good 1.0 'done'
  lib 'checkpoint_open k; timing_table'
  expect 0
  same 3 "${#lines[@]}"
}

@test "timing_table: the steps that were just run" {
  lib 'f() { :; }; checkpoint_open k; step one f; step two f; timing_table'
  expect 0
  [[ ${lines[-3]} =~ ^one\ +done\ +[0-9]+\.[0-9]$ && ${lines[-2]} =~ ^two\ +done && ${lines[-1]} =~ ^total\  ]]
}

@test "timing_table: without a checkpoint" {
  lib timing_table
  expect 64 'checkpoint_open comes first'
}
