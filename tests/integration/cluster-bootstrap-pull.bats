#!/usr/bin/env bats
# The bootstrap hook with a real container engine against a real registry (TLS, password). test_bootstrap_hook.py starts it
# once for podman and once for docker, in namespaces of its own, and says in the environment:
#   ENGINE        podman or docker
#   WORK          scratch directory; each file there that has an image's kind as its name holds the image's name by digest
#   REGISTRY      the registry; CA, AUTH: its certificate and credentials
#   MIRROR        a mirror, of the same CA, that once stands still in the middle of a large image; $WORK/stands-still is there then
#   HERE, THERE   this machine's architecture and the other one, named as uname -m does
#   DOCKER        the client, if ENGINE is docker; the daemon is on the PATH

# All that the hook calls, so that it finds one engine only.
TOOLS=(bash cat cp date find flock grep install mkdir mktemp mv od rm sed sha256sum sleep sort sync uname)

setup_file() {
  export HOOK=${BATS_TEST_DIRNAME}/../../overlays/common/root/usr/lib/cluster/cluster-bootstrap
  export BIN=${WORK}/bin STOPPING=${WORK}/stopping STORAGE SETSID
  local tool
  SETSID=$(command -v setsid)
  mkdir "${BIN}" "${STOPPING}"
  for tool in "${TOOLS[@]}"; do
    ln -s "$(command -v "${tool}")" "${BIN}/${tool}"
  done
  # It starts beside us; an answer will do, be it 401.
  until curl --silent --output /dev/null --cacert "${CA}" "https://${REGISTRY}/v2/"; do sleep 0.1; done
  "start_${ENGINE}"
  for tool in "${ENGINE}" sha256sum; do
    stopping "${tool}"
  done
}

# vfs, as the root file system of the tests may be an overlay itself.
start_podman() {
  export CONTAINERS_STORAGE_CONF=${WORK}/storage.conf
  printf '[storage]\ndriver="vfs"\ngraphroot="%s/graph"\nrunroot="%s/run"\n' "${WORK}" "${WORK}" >"${CONTAINERS_STORAGE_CONF}"
  ln -s "$(command -v podman)" "${BIN}/podman"
  STORAGE=${WORK}/graph
}

# The client refuses what the one of docker 18.09, the oldest that a node may have, refuses.
start_docker() {
  local run=${WORK}/exec
  export DOCKER_HOST=unix://${run}/docker.sock
  mkdir -p "${run}"
  STORAGE=${WORK}/data
  dockerd --iptables=false --ip-masq=false --bridge=none --data-root "${STORAGE}" --exec-root "${run}/root" -H "${DOCKER_HOST}" \
    --storage-driver vfs --pidfile "${run}/pid" >"${WORK}/dockerd.log" 2>&1 3>&- &
  echo $! >"${WORK}/dockerd.pid"
  cat >"${BIN}/docker" <<'EOS'
#!/bin/bash
for word; do
  case ${word} in
    -q | --quiet | --platform | --platform=*) echo "unknown flag: ${word}" >&2 && exit 125 ;;
    *) ;;
  esac
done
exec "${DOCKER}" "$@"
EOS
  chmod 0755 "${BIN}/docker"
  until "${DOCKER}" info >/dev/null 2>&1; do
    if ! kill -0 "$(<"${WORK}/dockerd.pid")"; then
      cat "${WORK}/dockerd.log"
      return 1
    fi
    sleep 0.2
  done
}

# Ends the daemon, which ends its containerd; the namespace would, too.
teardown_file() {
  local pid
  [[ -f ${WORK}/dockerd.pid ]] || return 0
  pid=$(<"${WORK}/dockerd.pid")
  kill "${pid}"
  while kill -0 "${pid}" 2>/dev/null; do sleep 0.1; done
}

# Makes a program that does not return once it has done its work, if one of its arguments is $STOP_AT.
stopping() {
  cat >"${STOPPING}/$1" <<EOS
#!/bin/bash
"${BIN}/$1" "\$@" || exit
for word in "$1" "\$@"; do
  if [[ \${word} == "\${STOP_AT}" ]]; then
    : >"${WORK}/stopped"
    sleep infinity
  fi
done
EOS
  chmod 0755 "${STOPPING}/$1"
}

setup() {
  HOME_DIR=${BATS_TEST_TMPDIR}/home
  ENV=${BATS_TEST_TMPDIR}/cluster.env
  forget
}

# Empties the engine's storage.
forget() {
  local image
  for image in $("${ENGINE}" images --all --quiet --no-trunc | sort -u); do
    "${ENGINE}" rmi --force "${image}" >/dev/null
  done
}

containers() {
  "${ENGINE}" ps --all --quiet
}

# Writes cluster.env for image $1 by name, with the site's settings, and whatever else is given.
site() {
  settings "$1" "REGISTRY_CA=${CA}" "REGISTRY_AUTH_FILE=${AUTH}" "${@:2}"
}

settings() {
  printf '%s\n' "INSTALLER_IMAGE=$1" ROLE=worker "${@:2}" >"${ENV}"
  chmod 0600 "${ENV}"
}

image() {
  printf '%s' "$(<"${WORK}/$1")"
}

# Runs the hook with a shorter pause and one more attempt only.
SHORT='source "$1"; PULL_DELAYS=(1); main --env "$2" --home "$3"'
hook() {
  PATH=${BIN} run bash -c "${SHORT}" hook "${HOOK}" "${ENV}" "${HOME_DIR}"
}

expect() {
  if [[ ${status} != "$1" || ${output} != *"$2"* ]]; then
    echo "wanted exit code $1 and '$2', got ${status}:"
    echo "${output}"
    return 1
  fi
}

# Nothing was installed and nothing is left.
expect_nothing() {
  if [[ ${output} == *installing* || -n $(ls -A "${HOME_DIR}/releases") || -n $(containers) ]]; then
    echo "something is left:"
    ls -A "${HOME_DIR}/releases"
    containers
    echo "${output}"
    return 1
  fi
}

@test "pulls with the site's CA and credentials, installs, leaves no container; again pulls nothing" {
  site "$(image good)"
  hook
  expect 0 'installing worker from'
  expect 0 'works'
  expect 0 'is in place'
  [[ ${output} != *secret-of-the-registry* ]]
  [[ -z $(containers) ]]
  [[ $(ls -A "${HOME_DIR}/releases") =~ ^[0-9a-f]{64}$ ]]
  hook
  expect 0 'nothing to pull'
}

@test "the log is quiet and tells how long each phase took" {
  site "$(image good)"
  hook
  expect 0 'is done'
  local phase
  for phase in pull extract verify; do
    grep -E "^[0-9TZ:-]+ INFO  cluster-bootstrap: ${phase} took [0-9]+ s\$" <<<"${output}"
  done
  run grep -vE 'cluster-bootstrap: |^installing worker|^works$' <<<"${output}"
  [[ ${status} -eq 1 ]]
  hook
  expect 0 'verify took'
}

@test "the digest of this platform's image is as good as that of the index" {
  site "$(image native)"
  hook
  expect 0 'installing worker from'
  [[ $(ls -A "${HOME_DIR}/releases") == "$(image native | sed 's/.*://')" ]]
}

@test "the image of another platform is unpacked like any other, and refused: its programs are another machine's" {
  site "$(image foreign)"
  hook
  expect 65 'extract took'
  expect 65 "components/tool/tool is for ${THERE}, this machine is ${HERE}"
  expect 65 'give the digest of the index'
  expect 65 'nothing was installed'
  expect_nothing
  site "$(image good)"
  hook
  expect 0 'installing worker from'
}

@test "another machine's programs in an image that says it is for this one are refused" {
  site "$(image mixed)"
  hook
  expect 65 "components/tool/tool is for ${THERE}, this machine is ${HERE}"
  expect_nothing
}

@test "an index without this platform cannot be pulled" {
  site "$(image elsewhere)"
  hook
  expect 69 'cannot pull'
  expect 69 'manifest'
  expect_nothing
}

@test "a half release, an abandoned staging directory and an abandoned container are replaced" {
  local image
  image=$(image good)
  site "${image}"
  mkdir -p "${HOME_DIR}/releases/.staging/junk" "${HOME_DIR}/releases/${image##*:}/bin"
  hook
  expect 0 'is damaged and is fetched again'
  expect 0 'installing worker from'
  [[ ! -e ${HOME_DIR}/releases/.staging && ! -e ${HOME_DIR}/releases/junk ]]
  rm -rf "${HOME_DIR}"
  "${ENGINE}" create --name cluster-bootstrap-payload "${image}" /never-started
  hook
  expect 0 'installing worker from'
  [[ -z $(containers) ]]
}

@test "a mirror is asked first, the origin when it fails" {
  local image
  image=$(image good)
  site "unreachable.invalid/${image#*/}" "REGISTRY_MIRROR=${REGISTRY}"
  hook
  expect 0 'installing worker from'
  rm -rf "${HOME_DIR}"
  forget
  site "${image}" REGISTRY_MIRROR=localhost:1
  hook
  expect 0 "pulling localhost:1/installer/good"
  expect 0 'installing worker from'
}

@test "what cannot be pulled: table" {
  local good row expected
  good=$(image good)
  local rows=(
    "${good}|REGISTRY_CA=${WORK}/other.crt|REGISTRY_AUTH_FILE=${AUTH}|x509"
    "${good}|REGISTRY_CA=${CA}|REGISTRY_AUTH_FILE=|(no basic auth|unauthorized|authentication required)"
    "${good}|REGISTRY_CA=${CA}|REGISTRY_AUTH_FILE=${WORK}/wrong.json|unauthorized"
    "${good%:*}:$(printf '0%.0s' {1..64})|REGISTRY_CA=${CA}|REGISTRY_AUTH_FILE=${AUTH}|manifest unknown"
    "localhost:1/${good#*/}|REGISTRY_CA=${CA}|REGISTRY_AUTH_FILE=${AUTH}|connection refused"
    "$(image bad-manifest)|REGISTRY_CA=${CA}|REGISTRY_AUTH_FILE=${AUTH}|(digest|verif)"
    "$(image bad-layer)|REGISTRY_CA=${CA}|REGISTRY_AUTH_FILE=${AUTH}|(digest|verif)"
  )
  for row in "${rows[@]}"; do
    IFS='|' read -r -a words <<<"${row}"
    expected=${row#"${words[0]}|${words[1]}|${words[2]}|"}
    echo "row: ${row}"
    settings "${words[@]:0:3}"
    hook
    expect 69 "cannot pull ${words[0]}, reasons above"
    [[ ${output} =~ ${expected} ]] || expect 69 "${expected}"
    expect_nothing
  done
}

@test "a damaged payload is refused and removed" {
  site "$(image damaged)"
  hook
  expect 65 'is refused, reason above; nothing was installed'
  expect_nothing
}

@test "an image that is no installer is refused" {
  site "$(image empty)"
  hook
  expect 65 'it is no cluster-installer'
  expect_nothing
}

@test "an image that a power cut left half in the engine's storage is pulled again" {
  local file
  site "$(image good)"
  hook
  expect 0 'is done'
  rm -rf "${HOME_DIR}"
  file=$(find "${STORAGE}" -path '*/cluster-installer/bin/install')
  [[ -n ${file} ]]
  : >"${file}"
  hook
  expect 0 'perhaps damaged; it is pulled again'
  expect 0 'installing worker from'
}

@test "a disk that is full while extracting: a clear error, and the same command gets to the end" {
  mkdir -p "${HOME_DIR}"
  mount -t tmpfs -o size=2m small "${HOME_DIR}"
  site "$(image large)"
  hook
  expect 74 'no space left on device'
  expect 74 'cannot copy the payload'
  expect_nothing
  mount -o remount,size=16m "${HOME_DIR}"
  hook
  umount "${HOME_DIR}"
  expect 0 'installing worker from'
  [[ ${output} != *pulling* ]] # the image is still in the engine's storage
}

@test "killed in every phase with all it started, the same command gets to the end" {
  local phase leader
  site "$(image good)"
  for phase in pull create cp rm sha256sum; do
    echo "phase: ${phase}"
    rm -rf "${WORK}/stopped" "${HOME_DIR}"
    forget
    STOP_AT=${phase} PATH=${STOPPING}:${BIN} "${SETSID}" bash -c "${SHORT}" hook "${HOOK}" "${ENV}" "${HOME_DIR}" >"${WORK}/killed.log" 2>&1 3>&- &
    leader=$!
    until [[ -e ${WORK}/stopped ]]; do
      kill -0 "${leader}" || expect 0 "$(<"${WORK}/killed.log")"
      sleep 0.1
    done
    hook
    expect 75 'another cluster-bootstrap is at work'
    kill -9 -- "-${leader}"
    wait "${leader}" || true
    hook
    expect 0 'installing worker from'
    [[ -z $(containers) && $(ls -A "${HOME_DIR}/releases") =~ ^[0-9a-f]{64}$ ]]
  done
}

@test "killed in the middle of a download, the same command gets to the end" {
  local leader
  settings "$(image large)" "REGISTRY_CA=${CA}" "REGISTRY_AUTH_FILE=${AUTH}" "REGISTRY_MIRROR=${MIRROR}"
  PATH=${BIN} "${SETSID}" bash -c "${SHORT}" hook "${HOOK}" "${ENV}" "${HOME_DIR}" >"${WORK}/killed.log" 2>&1 3>&- &
  leader=$!
  until [[ -e ${WORK}/stands-still ]]; do
    kill -0 "${leader}" || expect 0 "$(<"${WORK}/killed.log")"
    sleep 0.1
  done
  kill -9 -- "-${leader}"
  wait "${leader}" || true
  flock --timeout 30 "${HOME_DIR}/.lock" true # the engine, which had the lock too, takes a moment to die
  expect_nothing
  hook
  expect 0 "pulling ${MIRROR}/installer/large"
  expect 0 'installing worker from'
}
