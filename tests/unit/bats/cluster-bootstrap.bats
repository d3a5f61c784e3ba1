#!/usr/bin/env bats
# The bootstrap hook, run for real. What needs a container engine is in cluster-bootstrap-pull.bats.
# The hook always runs as a program of its own: `run` on a function would switch errexit off inside it.

setup() {
  HOOK=${BATS_TEST_DIRNAME}/../../../overlays/common/root/usr/lib/cluster/cluster-bootstrap
  ENV=${BATS_TEST_TMPDIR}/cluster.env
  HOME_DIR=${BATS_TEST_TMPDIR}/home
  DIGEST=$(printf 'a%.0s' {1..64})
  IMAGE=registry.site.example:5000/cluster/installer@sha256:${DIGEST}
  RELEASE=${HOME_DIR}/releases/${DIGEST}
}

# Writes cluster.env from the arguments, one line each.
env_file() {
  printf '%s\n' "$@" >"${ENV}"
  chmod 0600 "${ENV}"
}

# Makes a complete payload in $1, whose installer writes down how it was called and exits with $2.
payload() {
  mkdir -p "$1/bin" "$1/lib/with space"
  printf '#!/bin/bash\necho "$# $1 $CLUSTER_RELEASE $CLUSTER_ENV_FILE" >>"%s/called"\nexit %s\n' "${BATS_TEST_TMPDIR}" "${2:-0}" >"$1/bin/install"
  chmod 0755 "$1/bin/install"
  echo data >"$1/lib/with space/data"
  sums "$1"
}

# Writes SHA256SUMS of a payload, as `sha256sum` prints it.
sums() {
  (cd "$1" && find . -type f ! -name SHA256SUMS -printf '%P\0' | sort -z | xargs -0 sha256sum >"${BATS_TEST_TMPDIR}/sums" && mv "${BATS_TEST_TMPDIR}/sums" SHA256SUMS)
}

hook() {
  run "${HOOK}" --env "${ENV}" --home "${HOME_DIR}"
}

# Runs the hook where neither podman nor docker is found, so that nothing can be pulled.
hook_without_engine() {
  mkdir -p "${BATS_TEST_TMPDIR}/bin"
  local tool
  for tool in bash find date mktemp mkdir flock rm sha256sum sed sort grep sync mv cat sleep uname od; do
    ln -sf "$(command -v "${tool}")" "${BATS_TEST_TMPDIR}/bin/${tool}"
  done
  run env PATH="${BATS_TEST_TMPDIR}/bin" "${HOOK}" --env "${ENV}" --home "${HOME_DIR}"
}

# Asserts exit code $1 and a line of output that holds $2.
expect() {
  if [[ ${status} != "$1" || ${output} != *"$2"* ]]; then
    echo "wanted exit code $1 and '$2', got ${status}:"
    echo "${output}"
    return 1
  fi
}

@test "no cluster.env" {
  hook
  expect 78 'is no readable file'
}

@test "cluster.env writable by others" {
  env_file "INSTALLER_IMAGE=${IMAGE}" ROLE=worker
  chmod 0666 "${ENV}"
  hook
  expect 78 'writable by others'
}

@test "bad cluster.env: table" {
  echo nothing >"${BATS_TEST_TMPDIR}/no-pem"
  local rows=(
    'ROLE=worker|INSTALLER_IMAGE must be'
    "INSTALLER_IMAGE=|INSTALLER_IMAGE must be"
    "INSTALLER_IMAGE=registry.example/a/b:v1|a tag alone is not trusted"
    "INSTALLER_IMAGE=registry.example/a/b@sha256:abc|all 64 digits"
    "INSTALLER_IMAGE=registry.example/a/b@sha256:${DIGEST}0|all 64 digits"
    "INSTALLER_IMAGE=registry.example/a/b@sha256:${DIGEST^^}|all 64 digits"
    "INSTALLER_IMAGE=registry.example@sha256:${DIGEST}|INSTALLER_IMAGE must be"
    "INSTALLER_IMAGE=--help/a@sha256:${DIGEST}|INSTALLER_IMAGE must be"
    "INSTALLER_IMAGE=../etc/a@sha256:${DIGEST}|INSTALLER_IMAGE must be"
    "INSTALLER_IMAGE=registry.example/a/../b@sha256:${DIGEST}|INSTALLER_IMAGE must be"
    "INSTALLER_IMAGE=registry.example/a b@sha256:${DIGEST}|INSTALLER_IMAGE must be"
    "INSTALLER_IMAGE=registry.example/a@sha256:${DIGEST} ROLE=worker|INSTALLER_IMAGE must be"
    "INSTALLER_IMAGE=\$(reboot)/a@sha256:${DIGEST}|INSTALLER_IMAGE must be"
    "INSTALLER_IMAGE=${IMAGE}|ROLE must be"
    "INSTALLER_IMAGE=${IMAGE}~ROLE=Worker|ROLE must be"
    "INSTALLER_IMAGE=${IMAGE}~ROLE=worker2|ROLE must be"
    "INSTALLER_IMAGE=${IMAGE}~ROLE=worker~ROLE=master|:3: ROLE is set twice"
    "INSTALLER_IMAGE=${IMAGE}~ROLE=worker~role=master|:3: not KEY=value"
    "INSTALLER_IMAGE=${IMAGE}~ROLE=worker~export A=1|:3: not KEY=value"
    "INSTALLER_IMAGE=${IMAGE}~ROLE=worker~REGISTRY_CERT=/x|unknown key REGISTRY_CERT"
    "INSTALLER_IMAGE=${IMAGE}~ROLE=worker~REGISTRY_CA=ca.pem|REGISTRY_CA must be the absolute path"
    "INSTALLER_IMAGE=${IMAGE}~ROLE=worker~REGISTRY_CA=/no/such/file|REGISTRY_CA must be the absolute path"
    "INSTALLER_IMAGE=${IMAGE}~ROLE=worker~REGISTRY_CA=${BATS_TEST_TMPDIR}/no-pem|no PEM certificate"
    "INSTALLER_IMAGE=${IMAGE}~ROLE=worker~REGISTRY_AUTH_FILE=/no/such/file|REGISTRY_AUTH_FILE must be"
    "INSTALLER_IMAGE=${IMAGE}~ROLE=worker~REGISTRY_MIRROR=https://mirror.example|REGISTRY_MIRROR must be"
    "INSTALLER_IMAGE=${IMAGE}~ROLE=worker~REGISTRY_MIRROR=-x|REGISTRY_MIRROR must be"
  )
  local row lines
  for row in "${rows[@]}"; do
    IFS='~' read -r -a lines <<<"${row%|*}"
    env_file "${lines[@]}"
    echo "row: ${row}"
    hook
    expect 78 "${row##*|}"
  done
  [[ ! -e ${HOME_DIR}/releases ]]
}

@test "good cluster.env: table" {
  printf -- '-----BEGIN CERTIFICATE-----\n' >"${BATS_TEST_TMPDIR}/ca.pem"
  payload "${RELEASE}"
  local rows=(
    "INSTALLER_IMAGE=${IMAGE}~ROLE=first-master"
    "# comment~~INSTALLER_IMAGE=\"${IMAGE}\"~ROLE='worker'"
    "INSTALLER_IMAGE=${IMAGE}~ROLE=master~CLUSTER_VIP=10.0.0.1"
    "INSTALLER_IMAGE=10.0.0.1:5000/a/b-c/d__e:v1.2@sha256:${DIGEST}~ROLE=master~REGISTRY_MIRROR=mirror:5000/x"
    "INSTALLER_IMAGE=[fd00::1]:5000/a/b@sha256:${DIGEST}~ROLE=worker"
    "INSTALLER_IMAGE=${IMAGE}~ROLE=worker~REGISTRY_CA=${BATS_TEST_TMPDIR}/ca.pem~REGISTRY_AUTH_FILE=${BATS_TEST_TMPDIR}/ca.pem"
  )
  local row lines
  for row in "${rows[@]}"; do
    IFS='~' read -r -a lines <<<"${row}"
    env_file "${lines[@]}"
    echo "row: ${row}"
    hook
    expect 0 'is done'
  done
}

@test "carriage returns and a missing last newline are forgiven" {
  payload "${RELEASE}"
  printf 'INSTALLER_IMAGE=%s\r\nROLE=worker' "${IMAGE}" >"${ENV}"
  hook
  expect 0 'role worker is done'
}

@test "nothing in cluster.env is executed, no value is printed" {
  env_file "INSTALLER_IMAGE=${IMAGE}" ROLE=worker "CLUSTER_TOKEN=hunter2-\$(touch ${BATS_TEST_TMPDIR}/executed)"
  payload "${RELEASE}"
  hook
  expect 0 'is done'
  [[ ${output} != *hunter2* && ! -e ${BATS_TEST_TMPDIR}/executed ]]
  env_file "INSTALLER_IMAGE=${IMAGE}" ROLE=worker "PASSWORD=hunter2"
  hook
  expect 78 'unknown key PASSWORD'
  [[ ${output} != *hunter2* ]]
}

@test "a complete release is run without pulling, as often as wanted" {
  env_file "INSTALLER_IMAGE=${IMAGE}" ROLE=first-master
  payload "${RELEASE}"
  hook_without_engine
  expect 0 'nothing to pull'
  hook_without_engine
  expect 0 'nothing to pull'
  [[ $(sort -u "${BATS_TEST_TMPDIR}/called") == "1 first-master ${RELEASE} ${ENV}" ]]
  [[ $(wc -l <"${BATS_TEST_TMPDIR}/called") == 2 ]]
}

@test "no engine" {
  env_file "INSTALLER_IMAGE=${IMAGE}" ROLE=worker
  hook_without_engine
  expect 72 'neither podman nor docker'
}

@test "the installer's exit code is the hook's" {
  env_file "INSTALLER_IMAGE=${IMAGE}" ROLE=worker
  payload "${RELEASE}" 42
  hook
  expect 42 'role worker failed (exit code 42)'
}

@test "log lines have time and level" {
  env_file "INSTALLER_IMAGE=${IMAGE}" ROLE=worker
  payload "${RELEASE}"
  hook
  expect 0 ''
  local line
  while IFS= read -r line; do
    [[ ${line} =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\ (INFO|WARN|ERROR)\ +cluster-bootstrap:\  ]] || return 1
  done <<<"${output}"
}

@test "damaged releases: table" {
  local rows=(
    'echo x >>bin/install|have changed'
    'rm "lib/with space/data"|are not those that SHA256SUMS lists'
    'touch extra|are not those that SHA256SUMS lists'
    'mkdir d && touch d/.hidden|are not those that SHA256SUMS lists'
    'ln -s /etc/passwd link|neither file nor directory'
    'mkfifo pipe|neither file nor directory'
    'rm SHA256SUMS|has no SHA256SUMS'
    ': >SHA256SUMS|are not those that SHA256SUMS lists'
    'echo garbage >>SHA256SUMS|are not those that SHA256SUMS lists'
    'rm bin/install && sed -i "/bin.install/d" SHA256SUMS|has no program bin/install'
    'chmod 0644 bin/install|has no program bin/install'
  )
  env_file "INSTALLER_IMAGE=${IMAGE}" ROLE=worker
  local row
  for row in "${rows[@]}"; do
    rm -rf "${HOME_DIR}"
    payload "${RELEASE}"
    (cd "${RELEASE}" && eval "${row%|*}")
    echo "row: ${row}"
    # It wants to fetch the release again, which cannot be without an engine; the installer must not have run.
    hook_without_engine
    expect 72 "${row##*|}"
    expect 72 'is damaged and is fetched again'
    [[ ! -e ${BATS_TEST_TMPDIR}/called ]]
  done
}

# Writes the first 20 bytes of an ELF file: class, byte order, the two bytes of e_machine, all in octal.
elf() {
  printf '\177ELF%b\1\0\0\0\0\0\0\0\0\0\2\0%b' "\\0$1\\0$2" "\\0$3\\0$4"
}

@test "ELF files of other machines: table" {
  local rows=(
    'elf 1 1 3 0|is for i386'
    'elf 1 1 50 0|is for arm'
    'elf 2 1 25 0|is for ppc64le'
    'elf 2 2 0 26|is for s390x'
    'elf 2 1 363 0|is for riscv64'
    'elf 2 1 2 1|is for loongarch64'
    'elf 2 1 1 1|is for an unknown machine'
    'elf 2 2 0 76|is for an unknown machine'
    'printf "\177ELF\2\1"|is for an unknown machine'
  )
  env_file "INSTALLER_IMAGE=${IMAGE}" ROLE=worker
  local row
  for row in "${rows[@]}"; do
    rm -rf "${HOME_DIR}"
    payload "${RELEASE}"
    eval "${row%|*}" >"${RELEASE}/lib/a tool"
    sums "${RELEASE}"
    echo "row: ${row}"
    hook_without_engine
    expect 72 "lib/a tool ${row##*|}"
    expect 72 "this machine is $(uname -m): INSTALLER_IMAGE names the image of another platform; give the digest of the index"
    [[ ! -e ${BATS_TEST_TMPDIR}/called ]]
  done
}

@test "programs of this machine and what only looks like one are taken" {
  env_file "INSTALLER_IMAGE=${IMAGE}" ROLE=worker
  payload "${RELEASE}"
  cp "$(command -v bash)" "${RELEASE}/bin/bash"
  printf '\177EL' >"${RELEASE}/lib/short"
  printf '\177\0ELF' >"${RELEASE}/lib/nul"
  printf 'xELF' >"${RELEASE}/lib/text"
  : >"${RELEASE}/lib/empty"
  sums "${RELEASE}"
  hook_without_engine
  expect 0 'is done'
}

@test "SHA256SUMS may name ./files and have *binary marks" {
  env_file "INSTALLER_IMAGE=${IMAGE}" ROLE=worker
  payload "${RELEASE}"
  sed -i -E 's/^([0-9a-f]{64})  /\1 *.\//' "${RELEASE}/SHA256SUMS"
  hook
  expect 0 'is done'
}

@test "two at once: the second says so" {
  env_file "INSTALLER_IMAGE=${IMAGE}" ROLE=worker
  payload "${RELEASE}"
  exec 8>"${HOME_DIR}/.lock"
  flock 8
  hook
  expect 75 'another cluster-bootstrap is at work'
  flock -u 8
  hook
  expect 0 'is done'
}

@test "unknown argument" {
  run "${HOOK}" --frobnicate x
  expect 78 'usage: cluster-bootstrap'
}
