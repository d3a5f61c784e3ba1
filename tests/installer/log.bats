#!/usr/bin/env bats
# lib/log.sh: lines for people and lines for programs.

setup() { load lib; }

@test "log_*: UTC time, level, file:line of the caller, text" {
  mkdir -p "${BATS_TEST_TMPDIR}/roles"
  printf 'set -Eeuo pipefail\n. "%s"\nsay() {\n  log_info "$@"\n}\nsay one two\nlog_warn w\nlog_error e\nlog_debug d\n' "${PAYLOAD}/lib/utils.sh" >"${BATS_TEST_TMPDIR}/roles/worker.sh"
  run bash "${BATS_TEST_TMPDIR}/roles/worker.sh"
  expect 0
  [[ ${lines[0]} =~ ^20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\ INFO\ \ roles/worker.sh:4:\ one\ two$ ]]
  [[ ${lines[1]} == *'Z WARN  roles/worker.sh:7: w' && ${lines[2]} == *'Z ERROR roles/worker.sh:8: e' && ${#lines[@]} -eq 3 ]]
}

@test "log_debug: only if CLUSTER_DEBUG is 1" {
  CLUSTER_DEBUG=1 lib 'log_debug detail'
  expect 0 'DEBUG' 'detail'
  CLUSTER_DEBUG=0 lib 'log_debug detail'
  expect 0
  same '' "${output}"
}

@test "log: stdout stays free of it" {
  run bash -c "set -Eeuo pipefail; . '${PAYLOAD}/lib/utils.sh'; log_info text 2>/dev/null"
  same '' "${output}"
}

@test "log: text and JSON files, with every character that JSON has its own way for" {
  export CLUSTER_LOG_TEXT=${BATS_TEST_TMPDIR}/log CLUSTER_LOG_JSON=${BATS_TEST_TMPDIR}/log.jsonl WANTED=$'a "quote" \\ back\nline\ttab\r\001 é %s $(x) `y` &'
  lib 'log_info "${WANTED}"; log_error second'
  expect 0
  python3 - <<'PYTHON'
import json, os
lines = [json.loads(line) for line in open(os.environ["CLUSTER_LOG_JSON"])]
assert [line["level"] for line in lines] == ["INFO", "ERROR"], lines
assert lines[0]["text"] == os.environ["WANTED"], lines
assert set(lines[0]) == {"time", "level", "file", "line", "text"} and isinstance(lines[0]["line"], int)
PYTHON
  same "${output}" "$(<"${CLUSTER_LOG_TEXT}")"
  grep -q '^    line' "${CLUSTER_LOG_TEXT}" # a second line cannot pose as a message
}

@test "log: a file that cannot be written, and a closed stderr, stop nothing" {
  CLUSTER_LOG_TEXT=/no/such/dir/x CLUSTER_LOG_JSON=/dev/full lib 'log_info text; echo on'
  expect 0 'text' 'on'
  lib 'exec 2>&-; log_info text; echo on'
  expect 0 on
}

@test "log_time: table against date" {
  local second
  for second in 0 951782399 951782400 1078012800 1709164800 1735689599 1764025200 4107542400 32503680000; do
    lib 'log_time "$1"; echo "${LOG_TIME}"' "${second}"
    same "$(date -u -d "@${second}" +%Y-%m-%dT%H:%M:%SZ)" "${output}"
  done
  TZ=Asia/Tokyo lib 'log_time now; before=$(date -u +%Y-%m-%dT%H); [[ ${LOG_TIME} == "${before}"* || ${LOG_TIME} == "$(date -u +%Y-%m-%dT%H)"* ]]'
  expect 0
}

@test "die: the code and the text, and nothing after it" {
  lib 'die 78 bad key; echo after'
  expect 78 'ERROR' 'bad key'
  refuse after
}

@test "trap_errors: file:line and exit code, never the command's words" {
  printf 'set -Eeuo pipefail\n. "%s"\ntrap_errors\nf() {\n  bash -c "exit 7" SECRET\n}\nf\necho after\n' "${PAYLOAD}/lib/utils.sh" >"${BATS_TEST_TMPDIR}/x.sh"
  run bash "${BATS_TEST_TMPDIR}/x.sh"
  expect 7 'x.sh:5: a command failed with exit code 7'
  refuse SECRET after
}

@test "trap_errors: a failure that is handled is not told" {
  lib 'trap_errors; if false; then :; fi; false || echo on'
  expect 0
  same on "${output}"
}
