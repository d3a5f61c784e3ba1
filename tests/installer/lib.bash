# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154 # bats sets status, output and its directories, the tests read PAYLOAD
# What the tests of payload/lib share. Functions run in a bash of their own: bats' `run f` would switch errexit off inside f.

PAYLOAD=${BATS_TEST_DIRNAME}/../../installer-image/payload
export STATE_DIR=${BATS_TEST_TMPDIR}/state CLUSTER_CHANGES=${BATS_TEST_TMPDIR}/changes
unset CLUSTER_DEBUG CLUSTER_LOG_TEXT CLUSTER_LOG_JSON # what the caller of bats has set is not these tests' business

# Runs a text as a script with the library, as a role is run.
lib() {
  run bash -c "set -Eeuo pipefail; . '${PAYLOAD}/lib/utils.sh'; $1" bash "${@:2}"
}

# Asserts exit code $1 and that the output holds each of the other words.
expect() {
  local wanted=$1 text
  shift
  for text in "" "$@"; do
    if [[ ${status} != "${wanted}" || ${output} != *"${text}"* ]]; then
      printf "wanted exit code %s and '%s', got %s:\n%s\n" "${wanted}" "${text}" "${status}" "${output}"
      return 1
    fi
  done
}

# Asserts that the output holds none of the words.
refuse() {
  local text
  for text in "$@"; do
    if [[ ${output} == *"${text}"* ]]; then
      printf "'%s' must not be in:\n%s\n" "${text}" "${output}"
      return 1
    fi
  done
}

# Asserts that two texts are the same.
same() {
  [[ $1 == "$2" ]] || {
    printf "wanted '%s', got '%s'\n" "$1" "$2"
    return 1
  }
}

# Waits until a command is true; a test that hangs here is ended by its caller.
until_true() {
  local try
  for try in {1..300}; do
    if "$@"; then return 0; fi
    sleep 0.1
  done
  printf 'never true: %s\n' "$*"
  return 1
}

needs_root() {
  ((EUID == 0)) || skip "needs root"
}

# Runs a script with the library in a mount namespace of its own, where /full is a tmpfs of 64 KiB. $1: the script.
in_small_disk() {
  mkdir -p "${BATS_TEST_TMPDIR}/small"
  run unshare -m bash -c "set -Eeuo pipefail; mount -t tmpfs -o size=64k small '${BATS_TEST_TMPDIR}/small'; cd '${BATS_TEST_TMPDIR}/small'; . '${PAYLOAD}/lib/utils.sh'; $1"
}

# Asserts that a process has ended; init may not have asked for its exit code yet.
gone() {
  local line
  { IFS= read -r line <"/proc/$1/stat"; } 2>/dev/null || return 0
  [[ ${line##*) } == Z* ]] || {
    printf 'process %s still runs\n' "$1"
    return 1
  }
}
