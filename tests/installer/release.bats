#!/usr/bin/env bats
# lib/release.sh: which release is current, what a node was made with, which releases go.

setup() {
  LIB=${BATS_TEST_DIRNAME}/../../installer-image/payload/lib
  export HOME_DIRECTORY=${BATS_TEST_TMPDIR}/home STATE_DIR=${BATS_TEST_TMPDIR}/state CLUSTER_KEEP_RELEASES=2
  export CLUSTER_NAME=demo CLUSTER_NODE_NAME=m1 CLUSTER_NODE_IP=10.0.0.11 CLUSTER_ENDPOINT=api:6443 CLUSTER_POD_CIDR=10.244.0.0/16
  export CLUSTER_SERVICE_CIDR=10.96.0.0/12 CLUSTER_DNS_DOMAIN=cluster.local CLUSTER_CNI=bridge CLUSTER_KUBERNETES_VERSION=v1.20.2 ROLE=worker
  mkdir -p "${STATE_DIR}"
  local number=0 release
  for release in aaa bbb ccc ddd; do
    number=$((number + 1))
    mkdir -p "${HOME_DIRECTORY}/releases/${release}"
    touch -d "2026-01-0${number}" "${HOME_DIRECTORY}/releases/${release}"
  done
}

# Runs a script with lib/ loaded, for the release $1.
lib() {
  run env CLUSTER_RELEASE="${HOME_DIRECTORY}/releases/$1" bash -c "set -Eeuo pipefail; . '${LIB}/utils.sh'; $2"
}

@test "release_activate: current points to the release, the one before is remembered" {
  lib aaa release_activate
  [[ ${status} -eq 0 && $(readlink "${HOME_DIRECTORY}/current") == releases/aaa && ! -e ${STATE_DIR}/previous ]]
  lib bbb release_activate
  [[ ${status} -eq 0 && $(readlink "${HOME_DIRECTORY}/current") == releases/bbb && $(<"${STATE_DIR}/previous") == aaa ]]
  lib bbb release_activate
  [[ $(<"${STATE_DIR}/previous") == aaa ]]
}

@test "release_prune: the current one and the one before stay, however many are wanted" {
  lib aaa release_activate
  lib bbb release_activate
  lib bbb release_prune
  [[ ${status} -eq 0 ]]
  [[ -d ${HOME_DIRECTORY}/releases/aaa && -d ${HOME_DIRECTORY}/releases/bbb && ! -d ${HOME_DIRECTORY}/releases/ccc && ! -d ${HOME_DIRECTORY}/releases/ddd ]] || {
    ls "${HOME_DIRECTORY}/releases"
    false
  }
}

@test "release_prune: of the others the newest fill what is left" {
  lib aaa release_activate
  lib bbb release_activate
  CLUSTER_KEEP_RELEASES=3 lib bbb release_prune
  [[ ${status} -eq 0 && -d ${HOME_DIRECTORY}/releases/aaa && -d ${HOME_DIRECTORY}/releases/ddd && ! -d ${HOME_DIRECTORY}/releases/ccc ]]
}

@test "release_prune: nothing goes while there are few" {
  lib ddd release_activate
  CLUSTER_KEEP_RELEASES=9 lib ddd release_prune
  [[ $(find "${HOME_DIRECTORY}/releases" -mindepth 1 -maxdepth 1 | wc -l) -eq 4 ]]
}

@test "release_identity: a fresh node, and the same values" {
  lib aaa release_identity
  [[ ${status} -eq 0 ]]
  lib aaa 'release_note_identity; release_identity'
  [[ ${status} -eq 0 ]]
}

@test "release_identity: what cannot change is refused by name" {
  lib aaa release_note_identity
  CLUSTER_POD_CIDR=10.1.0.0/16 lib aaa release_identity
  [[ ${status} -eq 78 && ${output} == *'CLUSTER_POD_CIDR was 10.244.0.0/16, is 10.1.0.0/16'* ]]
  ROLE=master lib aaa release_identity
  [[ ${status} -eq 78 && ${output} == *'ROLE was worker'* ]]
}

@test "once: a second time is left out, a failure is not remembered" {
  lib aaa 'f() { echo "ran"; false; }; once thing f'
  [[ ${status} -ne 0 && ${output} == *ran* ]]
  lib aaa 'f() { echo "ran"; }; once thing f'
  [[ ${status} -eq 0 && ${output} == *ran* ]]
  lib bbb 'f() { echo "ran"; }; once thing f'
  [[ ${status} -eq 0 && ${output} != *ran* ]]
}
