#!/usr/bin/env bats
# lib/checkpoint.sh: steps that are done once, with real faults.

setup() {
  load lib
  D=${STATE_DIR}/checkpoints/digest/role
  export COUNT=${BATS_TEST_TMPDIR}/count
  : >"${COUNT}"
}

# Runs a text with an open checkpoint and a function `work` that counts its calls.
steps() { lib 'work() { echo x >>"${COUNT}"; }; checkpoint_open digest/role; '"$1" "${@:2}"; }

# Starts a script in the background that runs the step `long`, and waits until its function is at work. Sets ID and INNER.
long_step() {
  cat >"${BATS_TEST_TMPDIR}/role.sh" <<SCRIPT
set -Eeuo pipefail
. '${PAYLOAD}/lib/utils.sh'
long() { sleep 1000 & echo "\$!" >"\${COUNT}.pid"; mv "\${COUNT}.pid" "\${COUNT}.inner"; wait; }
$1
checkpoint_open digest/role
step long long
echo after
SCRIPT
  # job control: without it, bash starts background jobs with INT ignored, which no trap can change
  set -m
  bash "${BATS_TEST_TMPDIR}/role.sh" >"${BATS_TEST_TMPDIR}/said" 2>&1 3>&- &
  ID=$!
  set +m
  until_true test -e "${COUNT}.inner"
  INNER=$(<"${COUNT}.inner")
}

# Asserts the result in the record of a step, and whether it is marked as done.
recorded() {
  local file
  file=$(compgen -G "${D}/[0-9][0-9][0-9]-$1.json")
  grep -q "\"result\":\"$2\"" "${file}" || {
    cat "${file}"
    return 1
  }
  if [[ $2 == 'done' || $2 == skipped ]]; then [[ -e ${D}/$1.done ]]; else [[ ! -e ${D}/$1.done ]]; fi
}

@test "step: runs, is recorded and marked; the second time it is skipped" {
  steps 'step one work; step two work'
  expect 0 'step one: begins' 'step one: done in' 'step two: done in'
  recorded one 'done'
  recorded two 'done'
  steps 'step one work; step two work'
  expect 0 'step one: done before, skipped'
  recorded one 'done' # as it was when it was done
  same 2 "$(wc -l <"${COUNT}")"
  same '001-one.json 002-two.json one.done two.done' "$(cd "${D}" && printf '%s\n' * .[!.]* | grep -v '\[' | paste -sd ' ')"
}

@test "step: the record is JSON with what the contract names" {
  steps 'step one work'
  python3 - "${D}/001-one.json" <<'PYTHON'
import datetime, json, sys
record = json.load(open(sys.argv[1]))
assert record["step"] == "one" and record["result"] == "done" and record["seconds"] >= 0, record
for key in "start", "end":
    datetime.datetime.strptime(record[key], "%Y-%m-%dT%H:%M:%SZ")
PYTHON
}

@test "step: arguments, output, and empty input" {
  steps 'f() { cat; printf "[%s]" "$@"; }; echo INPUT | step one f "a b" "" "*"'
  expect 0 '[a b][][*]'
  refuse INPUT
}

@test "step: a failure has the function's exit code, is recorded, and runs again" {
  steps 'step one work; f() { return 9; }; step two f; echo AFTER'
  expect 9 'step two: failed with exit code 9'
  refuse AFTER
  recorded two failed
  steps 'step one work; step two work; step three work'
  expect 0 'step one: done before'
  recorded two 'done'
  [[ -e ${D}/002-two.json && -e ${D}/003-three.json ]]
}

@test "step: errexit, nounset and pipefail are on in the function, whatever the caller does" {
  local body
  for body in 'false' 'false | true' 'echo "${NOT_SET}"' 'local x; x=$(false)' '(exit 3)'; do
    steps "f() { ${body}; echo UNREACHABLE; }; g() { step one f; }; if g; then echo WRONG; fi; step one f || echo caught"
    expect 0 caught
    refuse UNREACHABLE WRONG
    recorded one failed
  done
}

@test "step: with trap_errors, the line that failed is told" {
  printf 'set -Eeuo pipefail\n. "%s"\ntrap_errors\nf() {\n  bash -c "exit 7" SECRET\n}\ncheckpoint_open digest/role\nstep one f SECRET\n' "${PAYLOAD}/lib/utils.sh" >"${BATS_TEST_TMPDIR}/x.sh"
  run bash "${BATS_TEST_TMPDIR}/x.sh"
  expect 7 'x.sh:5: a command failed with exit code 7' 'step one: failed with exit code 7'
  refuse SECRET
}

@test "step: TERM, INT and HUP end all that it started, and it is recorded as interrupted" {
  local signal code
  for signal in TERM:143 INT:130 HUP:129; do
    rm -f "${COUNT}.inner"
    long_step ''
    kill -s "${signal%:*}" "${ID}"
    code=0
    wait "${ID}" || code=$?
    same "${signal#*:}" "${code}"
    gone "${INNER}"
    recorded long interrupted
    run cat "${BATS_TEST_TMPDIR}/said"
    expect 0 'step long: interrupted after'
    refuse after$'\n'
  done
}

@test "step: a trap of the caller is there again, and runs" {
  long_step "trap 'echo CLEAN' EXIT; trap 'echo MINE; exit 5' TERM"
  kill -TERM "${ID}"
  local code=0
  wait "${ID}" || code=$?
  same 5 "${code}"
  run cat "${BATS_TEST_TMPDIR}/said"
  expect 0 MINE CLEAN
  recorded long interrupted
}

@test "step: what ignores TERM is killed" {
  export CHILD_GRACE=1
  long_step 'long() { trap "" TERM; sleep 1000 & echo "$!" >"${COUNT}.inner"; wait; }'
  kill -TERM "${ID}"
  wait "${ID}" || true
  gone "${INNER}"
  recorded long interrupted
}

@test "step: kill -9 of the whole run leaves no mark, and the next run does it again" {
  long_step ''
  kill -9 "${ID}"
  wait "${ID}" || true
  kill -9 "${INNER}"
  recorded long running
  steps 'timing_table; step long work; timing_table'
  expect 0 'unfinished' 'step long: was cut off before, runs again'
  recorded long 'done'
}

@test "step: kill -9 of the function is a failure" {
  steps 'f() { kill -9 "${BASHPID}"; }; step one f'
  expect 137 'failed with exit code 137'
  recorded one failed
}

@test "step: killed at every moment, a mark never lies" {
  # the work makes a file; wherever the run is killed, a step that is marked has its file
  local try id
  for try in {1..12}; do
    rm -rf "${STATE_DIR}" "${COUNT}.made"
    bash -c "set -Eeuo pipefail; . '${PAYLOAD}/lib/utils.sh'; f() { sleep 0.02; : >'${COUNT}.made'; }; checkpoint_open digest/role; step one f; step two f" >/dev/null 2>&1 3>&- &
    id=$!
    sleep "0.$(printf %03d $((RANDOM % 250)))"
    kill -9 "${id}" 2>/dev/null || true
    wait "${id}" || true
    [[ ! -e ${D}/one.done || -e ${COUNT}.made ]]
    [[ ! -e ${D}/one.done ]] || recorded one 'done'
    steps 'step one work; step two work'
    expect 0
    [[ -e ${D}/one.done && -e ${D}/two.done ]]
    same '' "$(find "${D}" -name '.*.new.*')"
  done
}

@test "step: a full disk is no success" {
  needs_root
  in_small_disk 'export STATE_DIR=${PWD}; checkpoint_open k; f() { head -c 100000 /dev/zero >"${STATE_DIR}/fill" 2>/dev/null || :; }; step one f; echo WRONG'
  [[ ${status} -ne 0 ]]
  refuse WRONG
  [[ ${output} == *'No space left on device'* ]]
}

@test "checkpoint_forget: the step runs again, in its place of the table" {
  steps 'step one work; step two work; checkpoint_forget one; step one work; checkpoint_forget never'
  expect 0
  same 3 "$(wc -l <"${COUNT}")"
  same '001-one.json 002-two.json' "$(cd "${D}" && echo *.json)"
}

@test "checkpoint_clear: all steps of this key run again, and of no other" {
  lib 'f() { :; }; checkpoint_open other/role; step one f'
  steps 'step one work; checkpoint_clear; step one work'
  same 2 "$(wc -l <"${COUNT}")"
  [[ -e ${STATE_DIR}/checkpoints/other/role/one.done ]]
}

@test "step names that end alike are not mixed up" {
  steps 'step a-b work; step b work; step a-b work; step b work'
  expect 0
  same 2 "$(wc -l <"${COUNT}")"
  same '001-a-b.json 002-b.json' "$(cd "${D}" && echo *.json)"
}

@test "checkpoints: wrong use, table" {
  local row
  for row in 'checkpoint_open ""' 'checkpoint_open ../x' 'checkpoint_open /x' 'checkpoint_open a/../b' 'checkpoint_open "a b"' 'step one true' 'checkpoint_clear' 'checkpoint_forget one' \
    'checkpoint_open k; step' 'checkpoint_open k; step one' 'checkpoint_open k; step "a b" true' 'checkpoint_open k; step ../x true' 'checkpoint_open k; step A true'; do
    echo "row: ${row}"
    lib "unset CHECKPOINT_DIRECTORY; ${row}"
    expect 64
  done
}
