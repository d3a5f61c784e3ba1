#!/usr/bin/env bats
# lib/child.sh: functions in a child.

setup() {
  load lib
  export FILE=${BATS_TEST_TMPDIR}/file
}

@test "child_run: output, exit code, empty input; the child's variables stay its own" {
  lib 'X=1; f() { X=2; cat; echo "out $1"; echo err >&2; return 5; }; echo INPUT | { s=0; child_run 0 f arg || s=$?; echo "code ${s} X ${X}"; }'
  expect 0 'out arg' 'err' 'code 5 X 1'
  refuse INPUT
}

@test "child_run: errexit, nounset and pipefail are on, in every context of the caller" {
  local body
  for body in 'false' 'false | true' 'echo "${NOT_SET}"' 'local x; x=$(false)'; do
    lib "f() { ${body}; echo UNREACHABLE; }; g() { child_run 0 f; }; g || echo caught; if g; then echo WRONG; fi; ! g; echo on"
    expect 0 caught on
    refuse UNREACHABLE WRONG
  done
}

@test "child_run: an EXIT trap of the function, exit, and exec do not hide the exit code" {
  lib 'f() { trap "echo bye" EXIT; exit 6; }; child_run 0 f'
  expect 6 bye
  lib 'f() { exec bash -c "exit 4"; }; child_run 0 f'
  expect 4
}

@test "child_run: the function is killed, and so is the child itself" {
  lib 'f() { kill -9 "${BASHPID}"; }; child_run 0 f'
  expect 137
  lib 'f() { local parent; read -r _ _ _ parent _ </proc/"${BASHPID}"/stat; echo "${BASHPID}" >"${FILE}"; kill -9 "${parent}"; exec sleep 1000 >/dev/null 2>&1 3>&-; }; child_run 0 f'
  kill "$(<"${FILE}")"
  expect 137
}

@test "child_run: a child that ends while it is looked after whether it lives was not killed" {
  lib 'child_lives() { while [[ -e /proc/$1/stat ]] && ! grep -q ") Z" "/proc/$1/stat"; do sleep 0.1; done; return 1; }
    f() { sleep 1.5; return 3; }; child_run 0 f || echo "code $?"; child_run 0 sleep 1.5; echo on'
  expect 0 'code 3' on
}

@test "child_capture: both outputs in memory, errexit on, also where the caller's is off" {
  lib 'f() { echo out; echo err >&2; printf "no newline"; false; echo UNREACHABLE; }; g() { child_capture 0 f; }; g || echo "code $? [${CHILD_OUTPUT}]"'
  expect 0 $'code 1 [out\nerr\nno newline]'
  lib 'child_capture 0 seq 1 20000; printf "%s %s\n" "${#CHILD_OUTPUT}" "$(tail -n 1 <<<"${CHILD_OUTPUT}")"'
  expect 0 ' 20000'
  ((${output%% *} < 9000))
  lib 'child_capture 1 yes || echo "code $?"'
  expect 0 'code 124'
}

@test "child_run: a daemon that the function leaves behind is not waited for" {
  lib 'f() { sleep 1000 >/dev/null 2>&1 3>&- & echo "$!" >"${FILE}"; }; child_run 0 f; echo on'
  kill "$(<"${FILE}")"
  expect 0 on
}

@test "child_run: 124 if it takes too long" {
  lib 'child_run 1 sleep 1000'
  expect 124
}

@test "child_tree and child_end: all that descend from a process, KILL for what ignores TERM" {
  CHILD_GRACE=1 lib 'f() { trap "" TERM; bash -c "sleep 1000; :"; sleep 1000; }; f & id=$!; sleep 0.5; child_tree "${id}" >"${FILE}"; child_end "${id}"; wait "${id}" || echo "code $?"'
  expect 0 'code 137'
  [[ $(wc -l <"${FILE}") -ge 3 ]]
  local id
  while read -r id; do gone "${id}"; done <"${FILE}"
}

@test "child_lives: this one, none, and a zombie" {
  lib 'child_lives "$$" && ! child_lives 999999999'
  expect 0
  run python3 -c '
import os, subprocess, sys
child = os.fork()
if not child: os._exit(0)
import time; time.sleep(0.3)
sys.exit(subprocess.run(["bash", "-c", ". \"$1\"; child_lives \"$2\"", "bash", sys.argv[1], str(child)]).returncode)' "${PAYLOAD}/lib/child.sh"
  expect 1
}
