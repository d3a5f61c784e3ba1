#!/usr/bin/env bats
# lib/health.sh: what is healthy and what is not, from answers as kubectl and etcdctl give them.

setup() {
  LIB=${BATS_TEST_DIRNAME}/../../installer-image/payload/lib
  export CLUSTER_NODE_NAME=m1 CLUSTER_CNI=bridge CLUSTER_KUBE_PROXY=no CLUSTER_COREDNS=no
  mkdir -p "${BATS_TEST_TMPDIR}/bin"
  PATH=${BATS_TEST_TMPDIR}/bin:${PATH}
}

# A program $1 that prints $2 and exits with $3.
answer() {
  printf '%s' "$2" >"${BATS_TEST_TMPDIR}/$1.answer"
  printf '#!/bin/bash\ncat %q\nexit %s\n' "${BATS_TEST_TMPDIR}/$1.answer" "${3:-0}" >"${BATS_TEST_TMPDIR}/bin/$1"
  chmod 0755 "${BATS_TEST_TMPDIR}/bin/$1"
}

lib() {
  run bash -c "set -Eeuo pipefail; . '${LIB}/utils.sh'; $1"
}

@test "etcd_healthy: every member has started, this one too" {
  answer etcdctl $'1, started, m1, https://10.0.0.11:2380, https://10.0.0.11:2379, false\n2, started, m2, https://10.0.0.12:2380, https://10.0.0.12:2379, false\n'
  lib etcd_healthy
  [[ ${status} -eq 0 ]]
}

@test "etcd_healthy: a member that has not started is shown" {
  answer etcdctl $'1, started, m1, https://10.0.0.11:2380, , false\n2, unstarted, , https://10.0.0.12:2380, , false\n'
  lib etcd_healthy
  [[ ${status} -eq 1 && ${output} == *unstarted* ]]
}

@test "etcd_healthy: this master is no member" {
  answer etcdctl $'2, started, m2, https://10.0.0.12:2380, , false\n'
  lib etcd_healthy
  [[ ${status} -eq 1 && ${output} == *'m1 is no started member'* ]]
}

@test "etcd_healthy: etcd does not answer" {
  answer etcdctl '' 1
  lib etcd_healthy
  [[ ${status} -eq 1 && ${output} == *'does not answer'* ]]
}

@test "static_pods_healthy: all say ok" {
  answer curl ok
  CLUSTER_NODE_IP=10.0.0.11 lib static_pods_healthy
  [[ ${status} -eq 0 && -z ${output} ]]
}

@test "static_pods_healthy: names those that do not, and what they say" {
  answer curl 'etcd failed: reason withheld'
  CLUSTER_NODE_IP=10.0.0.11 lib static_pods_healthy
  [[ ${status} -eq 1 && ${output} == *'kube-apiserver is not healthy: https://10.0.0.11:6443/readyz'*'etcd failed'* && ${output} == *kube-scheduler* ]]
}

@test "static_pods_healthy: nothing listens" {
  answer curl '' 7
  CLUSTER_NODE_IP=10.0.0.11 lib static_pods_healthy
  [[ ${status} -eq 1 && ${output} == *kube-controller-manager* ]]
}

@test "node_ready: True, False with kubelet's reason, no answer" {
  answer kubectl 'True kubelet is posting ready status'
  lib node_ready
  [[ ${status} -eq 0 ]]
  answer kubectl 'False cni plugin not initialized'
  lib node_ready
  [[ ${status} -eq 1 && ${output} == *'cni plugin not initialized'* ]]
  answer kubectl '' 1
  lib node_ready
  [[ ${status} -eq 1 ]]
}

@test "pods_ready: all, one not, none" {
  answer kubectl $'True\nTrue\n'
  lib 'pods_ready k8s-app=kube-dns'
  [[ ${status} -eq 0 ]]
  answer kubectl $'True\nFalse\n'
  lib 'pods_ready k8s-app=kube-dns'
  [[ ${status} -eq 1 ]]
  answer kubectl ''
  lib 'pods_ready k8s-app=kube-dns'
  [[ ${status} -eq 1 && ${output} == *'no pod with k8s-app=kube-dns'* ]]
}

@test "wait_for_node names what it waits for when time is up" {
  answer kubectl 'False cni plugin not initialized'
  lib 'NODE_DEADLINE=1; wait_for_node'
  [[ ${status} -ne 0 && ${output} == *'this node to get Ready'* && ${output} == *'cni plugin not initialized'* ]]
}

@test "wait_for_node with the site's own pod network waits for the registration only" {
  answer kubectl 'node/m1'
  CLUSTER_CNI=none lib wait_for_node
  [[ ${status} -eq 0 && ${output} == *"site has applied its own"* ]]
}

@test "wait_for_dns without DNS of ours says so" {
  lib wait_for_dns
  [[ ${status} -eq 0 && ${output} == *'no DNS of ours'* ]]
}
