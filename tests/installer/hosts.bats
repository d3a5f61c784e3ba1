#!/usr/bin/env bats
# lib/hosts.sh

setup() {
  load lib
  export HOSTS_FILE=${BATS_TEST_TMPDIR}/hosts
  B='# BEGIN cluster-installer nodes' E='# END cluster-installer nodes'
}

# Writes the hosts file from the arguments, one line each.
hosts() { printf '%s\n' "$@" >"${HOSTS_FILE}"; }

# Puts the arguments as the block `nodes`.
block() { lib 'printf "%s\n" "$@" | hosts_block nodes' "$@"; }

# Asserts the hosts file, one line per argument.
holds() { same "$(printf '%s\n' "$@")" "$(<"${HOSTS_FILE}")"; }

@test "hosts_block: at the end, replaced in its place, and no change the second time" {
  hosts '127.0.0.1 localhost' '# mine'
  block '10.0.0.1 a' '10.0.0.2 b'
  expect 0 "written the block 'nodes'"
  holds '127.0.0.1 localhost' '# mine' "${B}" '10.0.0.1 a' '10.0.0.2 b' "${E}"
  echo '10.9.9.9 later' >>"${HOSTS_FILE}"
  block '10.0.0.3 c'
  holds '127.0.0.1 localhost' '# mine' "${B}" '10.0.0.3 c' "${E}" '10.9.9.9 later'
  block '10.0.0.3 c'
  expect 0
  same '' "${output}"
  lib changes_count
  same 2 "${output}"
}

@test "hosts_block: blocks of other names stay" {
  hosts '# BEGIN cluster-installer registry' '10.0.0.9 r' '# END cluster-installer registry'
  block '10.0.0.1 a'
  holds '# BEGIN cluster-installer registry' '10.0.0.9 r' '# END cluster-installer registry' "${B}" '10.0.0.1 a' "${E}"
}

@test "hosts_block: no file yet, an empty one, one without a newline at its end" {
  block '10.0.0.1 a'
  holds "${B}" '10.0.0.1 a' "${E}"
  : >"${HOSTS_FILE}"
  block '10.0.0.1 a'
  holds "${B}" '10.0.0.1 a' "${E}"
  printf '127.0.0.1 localhost' >"${HOSTS_FILE}"
  block '10.0.0.1 a'
  holds '127.0.0.1 localhost' "${B}" '10.0.0.1 a' "${E}"
}

@test "hosts_block: a block edited by hand is repaired, and the user's lines stay" {
  echo 'END lost'
  hosts '127.0.0.1 localhost' "${B}" '10.0.0.7 a' '10.0.0.8 mine a' '10.0.0.9 own' '' '# note'
  block '10.0.0.1 a'
  holds '127.0.0.1 localhost' "${B}" '10.0.0.1 a' "${E}" '10.0.0.8 mine a' '10.0.0.9 own' '' '# note'
  echo 'BEGIN lost'
  hosts '127.0.0.1 localhost' '10.0.0.9 own' '10.0.0.7 a' "${E}" '# note'
  block '10.0.0.1 a'
  holds '127.0.0.1 localhost' '10.0.0.9 own' "${B}" '10.0.0.1 a' "${E}" '# note'
  echo 'twice'
  hosts "${B}" '10.0.0.7 a' "${E}" 'x y' "${B}" '10.0.0.8 z' "${E}"
  block '10.0.0.1 a'
  holds "${B}" '10.0.0.1 a' "${E}" 'x y'
  echo 'begun twice'
  hosts "${B}" "${B}" '10.0.0.7 a' "${E}" "${E}" 'x y'
  block '10.0.0.1 a'
  holds "${B}" '10.0.0.1 a' "${E}" 'x y'
  echo 'END lost, another block follows'
  hosts "${B}" '10.0.0.7 a' '# BEGIN cluster-installer registry' '10.0.0.9 a' '# END cluster-installer registry'
  block '10.0.0.1 a'
  holds "${B}" '10.0.0.1 a' "${E}" '# BEGIN cluster-installer registry' '10.0.0.9 a' '# END cluster-installer registry'
  echo 'blanks and carriage returns behind the marks'
  hosts "${B} "$'\r' '10.0.0.7 a' "${E}"$'\t'
  block '10.0.0.1 a'
  holds "${B}" '10.0.0.1 a' "${E}"
}

@test "hosts_block: & and backslashes are no patterns" {
  hosts '127.0.0.1 localhost'
  block '10.0.0.1 a # \n & \\ \1'
  holds '127.0.0.1 localhost' "${B}" '10.0.0.1 a # \n & \\ \1' "${E}"
}

@test "hosts_block_remove, and no lines at all: the block goes" {
  hosts '127.0.0.1 localhost' "${B}" '10.0.0.7 a' "${E}" 'x y'
  lib 'hosts_block_remove nodes'
  expect 0
  holds '127.0.0.1 localhost' 'x y'
  lib 'hosts_block_remove nodes; changes_count'
  same 1 "${output}"
  lib ': | hosts_block nodes'
  expect 0
  holds '127.0.0.1 localhost' 'x y'
}

@test "hosts_block: mode and owner stay, and so does a link" {
  needs_root
  hosts '127.0.0.1 localhost'
  chown 1234:2345 "${HOSTS_FILE}"
  chmod 0604 "${HOSTS_FILE}"
  mv "${HOSTS_FILE}" "${HOSTS_FILE}.real"
  ln -s hosts.real "${HOSTS_FILE}"
  block '10.0.0.1 a'
  expect 0
  same '1234:2345 604' "$(stat -c '%u:%g %a' "${HOSTS_FILE}.real")"
  [[ -L ${HOSTS_FILE} ]]
  same 'hosts hosts.real' "$(find "${BATS_TEST_TMPDIR}" -name '*hosts*' -printf '%f\n' | sort | paste -sd ' ')"
}

@test "hosts_block: a file that is a mount of its own, in a writable and in a read-only directory" {
  needs_root
  hosts '127.0.0.1 localhost'
  mkdir "${BATS_TEST_TMPDIR}/etc"
  : >"${BATS_TEST_TMPDIR}/etc/hosts"
  for options in rw ro; do
    run unshare -m bash -c "set -Eeuo pipefail; cd '${BATS_TEST_TMPDIR}'; mount --bind etc etc; mount --bind hosts etc/hosts; mount -o remount,bind,${options} etc
      . '${PAYLOAD}/lib/utils.sh'; echo '10.0.0.1 ${options}' | HOSTS_FILE=\${PWD}/etc/hosts hosts_block nodes; ls -A etc"
    expect 0 "written the block 'nodes'"
    same hosts "${lines[-1]}"
    holds '127.0.0.1 localhost' "${B}" "10.0.0.1 ${options}" "${E}"
  done
}

@test "hosts_block: a full disk leaves the file as it was" {
  needs_root
  in_small_disk 'echo "127.0.0.1 localhost" >hosts; head -c 70000 /dev/zero >fill 2>/dev/null || :
    seq -f "10.0.0.1 some-long-name-of-a-host-%g" 200 | HOSTS_FILE=${PWD}/hosts hosts_block nodes || echo "code $?"; ls -A; cat hosts'
  expect 0 'as it was' $'code 1\nfill\nhosts\n127.0.0.1 localhost'
}

@test "hosts_block: a bad name" {
  local name
  for name in '' 'A b' $'a\nb' '../x'; do
    lib 'hosts_block "$1" </dev/null' "${name}"
    expect 64 'is no name of a block'
  done
}
