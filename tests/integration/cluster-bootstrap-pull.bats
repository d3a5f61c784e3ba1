#!/usr/bin/env bats
# The bootstrap hook against a real registry (docker-registry on loopback, TLS, password) with real podman.
# Skipped where a tool is missing or podman cannot work: it needs root, and vfs because the tests may run inside a container.

setup_file() {
  local tool
  for tool in podman docker-registry openssl curl; do
    command -v "${tool}" >/dev/null || skip "${tool} is not installed"
  done
  ((EUID == 0)) || skip "podman create needs root here"
  export WORK=${BATS_FILE_TMPDIR} HOOK=${BATS_TEST_DIRNAME}/../../overlays/common/root/usr/lib/cluster/cluster-bootstrap
  export CONTAINERS_STORAGE_CONF=${WORK}/storage.conf
  printf '[storage]\ndriver="vfs"\ngraphroot="%s/graph"\nrunroot="%s/run"\n' "${WORK}" "${WORK}" >"${CONTAINERS_STORAGE_CONF}"
  start_registry
  make_images
}

teardown_file() {
  [[ ! -f ${WORK}/registry.pid ]] || kill "$(<"${WORK}/registry.pid")" || true
}

# A registry with a certificate of its own CA and one user.
start_registry() {
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
    -keyout "${WORK}/key.pem" -out "${WORK}/ca.pem" 2>/dev/null
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=other -keyout /dev/null -out "${WORK}/other-ca.pem" 2>/dev/null
  # user: node, password: secret-of-the-registry
  echo "node:$(bcrypt)" >"${WORK}/htpasswd"
  local attempt=0
  until serve; do
    attempt=$((attempt + 1))
    if ((attempt == 10)); then
      cat "${WORK}/registry.log"
      return 1
    fi
  done
  printf '{"auths":{"%s":{"auth":"%s"}}}\n' "${REGISTRY}" "$(printf 'node:secret-of-the-registry' | base64 -w0)" >"${WORK}/auth.json"
}

# Starts the registry on some port; fails if the port is taken, so that the caller tries another.
serve() {
  local port=$((10000 + RANDOM % 20000)) pid
  cat >"${WORK}/registry.yml" <<EOF
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: ${WORK}/registry}}
http: {addr: "127.0.0.1:${port}", tls: {certificate: ${WORK}/ca.pem, key: ${WORK}/key.pem}}
auth: {htpasswd: {realm: test, path: ${WORK}/htpasswd}}
EOF
  docker-registry serve "${WORK}/registry.yml" >>"${WORK}/registry.log" 2>&1 3>&- &
  pid=$!
  while kill -0 "${pid}" 2>/dev/null; do
    if curl -s --cacert "${WORK}/ca.pem" "https://localhost:${port}/v2/" >/dev/null && kill -0 "${pid}" 2>/dev/null; then
      export REGISTRY=localhost:${port}
      echo "${pid}" >"${WORK}/registry.pid"
      return 0
    fi
    sleep 0.1
  done
  return 1
}

# bcrypt of "secret-of-the-registry": the registry takes no other kind.
bcrypt() {
  perl -e 'print crypt("secret-of-the-registry", "\$2b\$04\$abcdefghijklmnopqrstuu")'
}

# Pushes a good image, one with a damaged payload and one without any; writes their digests to files.
make_images() {
  local kind tree
  for kind in good damaged empty; do
    tree=${WORK}/tree-${kind}
    mkdir -p "${tree}/cluster-installer/bin" "${tree}/other"
    printf '#!/bin/bash\necho "installing $1 from $CLUSTER_RELEASE"\n' >"${tree}/cluster-installer/bin/install"
    chmod 0755 "${tree}/cluster-installer/bin/install"
    (cd "${tree}/cluster-installer" && sha256sum bin/install >SHA256SUMS)
    [[ ${kind} != damaged ]] || echo '# changed' >>"${tree}/cluster-installer/bin/install"
    [[ ${kind} != empty ]] || rm -rf "${tree}/cluster-installer"
    tar -C "${tree}" -cf "${WORK}/${kind}.tar" .
    podman import --quiet "${WORK}/${kind}.tar" "local/${kind}" >/dev/null
    push "local/${kind}" "installer/${kind}" >"${WORK}/${kind}"
    podman rmi --force "local/${kind}" >/dev/null
  done
}

# Pushes local image $1 to repository $2 and prints its name by digest.
push() {
  mkdir -p "${WORK}/certs"
  cp "${WORK}/ca.pem" "${WORK}/certs/ca.crt"
  podman push --quiet --cert-dir "${WORK}/certs" --authfile "${WORK}/auth.json" --digestfile "${WORK}/digest" "$1" "${REGISTRY}/$2"
  echo "${REGISTRY}/$2@$(<"${WORK}/digest")"
}

setup() {
  HOME_DIR=${BATS_TEST_TMPDIR}/home
  ENV=${BATS_TEST_TMPDIR}/cluster.env
  podman rmi --all --force >/dev/null
}

env_file() {
  printf '%s\n' "$@" >"${ENV}"
  chmod 0600 "${ENV}"
}

# Runs the hook with shorter pauses between attempts.
hook() {
  run bash -c 'source "$1"; PULL_DELAYS=(1); main --env "$2" --home "$3"' hook "${HOOK}" "${ENV}" "${HOME_DIR}"
}

expect() {
  if [[ ${status} != "$1" || ${output} != *"$2"* ]]; then
    echo "wanted exit code $1 and '$2', got ${status}:"
    echo "${output}"
    return 1
  fi
}

@test "pulls with the site's CA and credentials, installs, leaves no container; again pulls nothing" {
  env_file "INSTALLER_IMAGE=$(<"${WORK}/good")" ROLE=worker "REGISTRY_CA=${WORK}/ca.pem" "REGISTRY_AUTH_FILE=${WORK}/auth.json"
  hook
  expect 0 'installing worker from'
  expect 0 'is in place'
  [[ ${output} != *secret-of-the-registry* ]]
  [[ -z $(podman ps --all --quiet) ]]
  [[ $(ls -A "${HOME_DIR}/releases") =~ ^[0-9a-f]{64}$ ]]
  hook
  expect 0 'nothing to pull'
}

@test "a half release and an abandoned staging directory are replaced" {
  env_file "INSTALLER_IMAGE=$(<"${WORK}/good")" ROLE=worker "REGISTRY_CA=${WORK}/ca.pem" "REGISTRY_AUTH_FILE=${WORK}/auth.json"
  local image
  image=$(<"${WORK}/good")
  mkdir -p "${HOME_DIR}/releases/.staging/junk" "${HOME_DIR}/releases/${image##*:}/bin"
  hook
  expect 0 'is damaged and is fetched again'
  expect 0 'installing worker from'
  [[ ! -e ${HOME_DIR}/releases/.staging && ! -e ${HOME_DIR}/releases/junk ]]
}

@test "a mirror is asked first, the origin when it fails" {
  local image
  image=$(<"${WORK}/good")
  env_file "INSTALLER_IMAGE=unreachable.invalid/${image#*/}" ROLE=worker "REGISTRY_MIRROR=${REGISTRY}" "REGISTRY_CA=${WORK}/ca.pem" "REGISTRY_AUTH_FILE=${WORK}/auth.json"
  hook
  expect 0 'installing worker from'
  rm -rf "${HOME_DIR}"
  podman rmi --all --force >/dev/null
  env_file "INSTALLER_IMAGE=${image}" ROLE=worker "REGISTRY_MIRROR=localhost:1" "REGISTRY_CA=${WORK}/ca.pem" "REGISTRY_AUTH_FILE=${WORK}/auth.json"
  hook
  expect 0 "pulling localhost:1/installer/good"
  expect 0 'installing worker from'
}

@test "wrong CA, no credentials, no such digest: a clear error, nothing installed" {
  local good
  good=$(<"${WORK}/good")
  env_file "INSTALLER_IMAGE=${good}" ROLE=worker "REGISTRY_CA=${WORK}/other-ca.pem" "REGISTRY_AUTH_FILE=${WORK}/auth.json"
  hook
  expect 69 'cannot pull'
  expect 69 'x509'
  env_file "INSTALLER_IMAGE=${good}" ROLE=worker "REGISTRY_CA=${WORK}/ca.pem"
  hook
  expect 69 'cannot pull'
  env_file "INSTALLER_IMAGE=${good%:*}:$(printf '0%.0s' {1..64})" ROLE=worker "REGISTRY_CA=${WORK}/ca.pem" "REGISTRY_AUTH_FILE=${WORK}/auth.json"
  hook
  expect 69 'cannot pull'
  [[ -z $(ls -A "${HOME_DIR}/releases") ]]
}

@test "a damaged payload is refused and removed" {
  env_file "INSTALLER_IMAGE=$(<"${WORK}/damaged")" ROLE=worker "REGISTRY_CA=${WORK}/ca.pem" "REGISTRY_AUTH_FILE=${WORK}/auth.json"
  hook
  expect 65 'is not what it says; nothing was installed'
  [[ ${output} != *installing* && -z $(ls -A "${HOME_DIR}/releases") ]]
}

@test "an image that is no installer is refused" {
  env_file "INSTALLER_IMAGE=$(<"${WORK}/empty")" ROLE=worker "REGISTRY_CA=${WORK}/ca.pem" "REGISTRY_AUTH_FILE=${WORK}/auth.json"
  hook
  expect 65 'it is no cluster-installer'
  [[ -z $(podman ps --all --quiet) && ! -e ${HOME_DIR}/releases/${image##*:}/bin ]]
}
