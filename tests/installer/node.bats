#!/usr/bin/env bats
# lib/node.sh: what makes a host ready. What changes a host runs in a mount namespace over empty directories.

setup() {
  LIB=${BATS_TEST_DIRNAME}/../../installer-image/payload/lib
  export STATE_DIR=${BATS_TEST_TMPDIR}/state CLUSTER_RELEASE=${BATS_TEST_DIRNAME}/../../installer-image/payload
  export CLUSTER_CHANGES=${BATS_TEST_TMPDIR}/changes HOSTS_FILE=${BATS_TEST_TMPDIR}/hosts
  export CLUSTER_NODES='m1=10.0.0.11=first-master=amd64 w1=10.0.0.21=worker=amd64' CLUSTER_ENDPOINT=api.demo:6443 CLUSTER_ENDPOINT_IP=10.0.0.11
  export CLUSTER_REGISTRY=registry.site:5000 CLUSTER_REGISTRY_IP=10.0.0.2
  mkdir -p "${STATE_DIR}" "${BATS_TEST_TMPDIR}/bin"
  : >"${CLUSTER_CHANGES}"
}

lib() {
  run bash -c "set -Eeuo pipefail; . '${LIB}/utils.sh'; $1"
}

# A systemctl that writes down how it was called and says that services are $1.
systemctl_says() {
  printf '#!/bin/bash\necho "$*" >>%q\n[[ $* != *is-active* ]] || exit %s\n' "${BATS_TEST_TMPDIR}/called" "$1" >"${BATS_TEST_TMPDIR}/bin/systemctl"
  chmod 0755 "${BATS_TEST_TMPDIR}/bin/systemctl"
  PATH=${BATS_TEST_TMPDIR}/bin:${PATH}
}

@test "node_hosts: registry, nodes and endpoint; a second time changes nothing" {
  echo '127.0.0.1 localhost' >"${HOSTS_FILE}"
  lib node_hosts
  [[ ${status} -eq 0 ]]
  grep -qx '10.0.0.2 registry.site' "${HOSTS_FILE}"
  grep -qx '10.0.0.21 w1' "${HOSTS_FILE}"
  grep -qx '10.0.0.11 api.demo' "${HOSTS_FILE}"
  grep -qx '127.0.0.1 localhost' "${HOSTS_FILE}"
  cp "${HOSTS_FILE}" "${HOSTS_FILE}.before"
  lib node_hosts
  cmp "${HOSTS_FILE}" "${HOSTS_FILE}.before"
}

@test "registry_auth: the entry of this registry, in any layout of the file" {
  export REGISTRY_AUTH_FILE=${BATS_TEST_TMPDIR}/auth.json
  printf '{"auths":{"other:5000":{"auth":"bm8="},"registry.site:5000":{"auth":"eWVz"}}}' >"${REGISTRY_AUTH_FILE}"
  lib 'registry_auth registry.site:5000'
  [[ ${status} -eq 0 && ${output} == eWVz ]]
  printf '{\n  "auths": {\n    "registry.site:5000": {\n      "email": "",\n      "auth": "eWVz"\n    },\n    "other:5000": {"auth": "bm8="}\n  }\n}\n' >"${REGISTRY_AUTH_FILE}"
  lib 'registry_auth registry.site:5000'
  [[ ${output} == eWVz ]]
}

@test "registry_auth: nothing without a file, and nothing for another registry" {
  REGISTRY_AUTH_FILE='' lib 'registry_auth registry.site:5000'
  [[ ${status} -eq 0 && -z ${output} ]]
  export REGISTRY_AUTH_FILE=${BATS_TEST_TMPDIR}/auth.json
  printf '{"auths":{"other:5000":{"auth":"bm8="}}}' >"${REGISTRY_AUTH_FILE}"
  lib 'registry_auth registry.site:5000'
  [[ ${status} -eq 0 && -z ${output} ]]
}

@test "cgroup_driver follows the init" {
  lib cgroup_driver
  [[ ${status} -eq 0 ]]
  if [[ $(</proc/1/comm) == systemd ]]; then [[ ${output} == systemd ]]; else [[ ${output} == cgroupfs ]]; fi
}

@test "restrict_oom_score says true or false" {
  lib restrict_oom_score
  [[ ${status} -eq 0 && ${output} =~ ^(true|false)$ ]]
}

@test "service_current: restarts what changed, and only that" {
  systemctl_says 0
  echo one >"${BATS_TEST_TMPDIR}/file"
  lib "service_current demo.service '${BATS_TEST_TMPDIR}/file' /nonexistent"
  [[ ${status} -eq 0 ]]
  grep -qx 'restart demo.service' "${BATS_TEST_TMPDIR}/called"
  rm "${BATS_TEST_TMPDIR}/called"
  lib "service_current demo.service '${BATS_TEST_TMPDIR}/file' /nonexistent"
  if grep -q restart "${BATS_TEST_TMPDIR}/called"; then false; fi
  echo two >"${BATS_TEST_TMPDIR}/file"
  lib "service_current demo.service '${BATS_TEST_TMPDIR}/file' /nonexistent"
  grep -qx 'restart demo.service' "${BATS_TEST_TMPDIR}/called"
}

@test "service_current: starts what does not run" {
  systemctl_says 3
  lib 'service_stamp demo.service; service_current demo.service'
  [[ ${status} -eq 0 ]]
  grep -qx 'restart demo.service' "${BATS_TEST_TMPDIR}/called"
}

@test "node_modules: a kernel without br_netfilter is an error that names it" {
  [[ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ]] || skip "this kernel has it"
  [[ ${EUID} -eq 0 ]] || skip "needs root"
  printf '#!/bin/bash\nexit 1\n' >"${BATS_TEST_TMPDIR}/bin/modprobe"
  chmod 0755 "${BATS_TEST_TMPDIR}/bin/modprobe"
  run env PATH="${BATS_TEST_TMPDIR}/bin:${PATH}" unshare --mount bash -c "set -Eeuo pipefail; mount -t tmpfs none /etc/modules-load.d; . '${LIB}/utils.sh'; node_modules"
  [[ ${status} -ne 0 && ${output} == *br_netfilter* ]]
}

@test "node_manifests: what an interrupted renewal has parked comes back" {
  export MANIFESTS=${BATS_TEST_TMPDIR}/manifests PARKED=${BATS_TEST_TMPDIR}/parked
  mkdir "${MANIFESTS}"
  lib node_manifests
  [[ ${status} -eq 0 ]]
  mkdir "${PARKED}"
  echo etcd >"${PARKED}/etcd.yaml"
  lib node_manifests
  [[ ${status} -eq 0 && -e ${MANIFESTS}/etcd.yaml && ! -e ${PARKED}/etcd.yaml ]]
}
