#!/usr/bin/env bats
# lib/cluster.sh and lib/kubeadm.sh: what is derived from the configuration.

setup() {
  LIB=${BATS_TEST_DIRNAME}/../../installer-image/payload/lib
  export CLUSTER_NODES='m1=10.0.0.11=first-master=amd64 m2=10.0.0.12=master=arm64 w1=10.0.0.21=worker=amd64'
  export CLUSTER_ENDPOINT=api.demo.example:8443 CLUSTER_ENDPOINT_IP=10.0.0.11 KUBERNETES_VERSION=v1.20.2 ROLE=worker CLUSTER_NODE_IP=10.0.0.21
}

lib() {
  run bash -c "set -Eeuo pipefail; . '${LIB}/utils.sh'; $1"
}

@test "cluster_nodes prints name, address, role and arch" {
  lib cluster_nodes
  [[ ${status} -eq 0 && ${lines[1]} == 'm2 10.0.0.12 master arm64' && ${#lines[@]} -eq 3 ]]
}

@test "cluster_masters leaves the workers out" {
  lib cluster_masters
  [[ ${output} == $'m1 10.0.0.11\nm2 10.0.0.12' ]]
}

@test "endpoint_host and endpoint_port" {
  lib 'endpoint_host; endpoint_port'
  [[ ${output} == $'api.demo.example\n8443' ]]
}

@test "kubernetes_minor" {
  lib kubernetes_minor
  [[ ${output} == 20 ]]
  KUBERNETES_VERSION=v1.31.10 lib kubernetes_minor
  [[ ${output} == 31 ]]
}

@test "kubeadm_api_version follows Kubernetes" {
  for pair in v1.20.2=v1beta2 v1.21.14=v1beta2 v1.22.0=v1beta3 v1.30.1=v1beta3 v1.31.0=v1beta4 v1.34.2=v1beta4; do
    KUBERNETES_VERSION=${pair%=*} lib kubeadm_api_version
    [[ ${output} == "${pair#*=}" ]]
  done
}

@test "kubeadm_values: a certificate names the endpoint and every master once" {
  lib 'kubeadm_values; echo "${CERT_NAMES}"'
  [[ ${output} == '"api.demo.example", "127.0.0.1", "10.0.0.11", "m1", "m2", "10.0.0.12"' ]]
}

@test "kubeadm_values: only a further master gets a control plane" {
  lib 'kubeadm_values; echo "${CONTROL_PLANE}"'
  [[ -z ${output} ]]
  ROLE=master CERTIFICATE_KEY=k lib 'kubeadm_values; echo "${CONTROL_PLANE}"'
  [[ ${output} == *'certificateKey: "k"'* && ${output} == *10.0.0.21* ]]
}

@test "kubeadm_values: arguments of kubelet became a list in v1beta4" {
  lib 'kubeadm_values; echo "${KUBELET_ARGUMENTS}"'
  [[ ${output} == '{node-ip: "10.0.0.21"}' ]]
  KUBERNETES_VERSION=v1.31.0 lib 'kubeadm_values; echo "${KUBELET_ARGUMENTS}"'
  [[ ${output} == '[{name: node-ip, value: "10.0.0.21"}]' ]]
}
