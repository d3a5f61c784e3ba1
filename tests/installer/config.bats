#!/usr/bin/env bats
# lib/config.sh: cluster.env as data, every key, and how they fit together.

setup() {
  load lib
  ENV=${BATS_TEST_TMPDIR}/cluster.env
  SECRET=$(printf 'b%.0s' {1..64})
  printf '%s\n' "${SECRET}" >"${BATS_TEST_TMPDIR}/join.secret"
  printf -- '-----BEGIN CERTIFICATE-----\n' >"${BATS_TEST_TMPDIR}/ca.pem"
  chmod 0600 "${BATS_TEST_TMPDIR}/join.secret"
}

# Writes a sound cluster.env, with the keys of the arguments (KEY=value) changed; KEY- leaves a key out.
env_file() {
  local change
  cat >"${ENV}" <<FILE
# rendered
INSTALLER_IMAGE=registry.site.example:5000/cluster/installer@sha256:$(printf 'a%.0s' {1..64})
ROLE=worker
REGISTRY_CA=${BATS_TEST_TMPDIR}/ca.pem

CLUSTER_NAME=demo
CLUSTER_NODE_NAME=w1
CLUSTER_NODE_IP=10.0.0.21
CLUSTER_NODES=m1=10.0.0.11=first-master=amd64 m2.site=10.0.0.12=master=arm64 w1=10.0.0.21=worker=arm64
CLUSTER_ENDPOINT=api.demo.cluster.local:6443
CLUSTER_ENDPOINT_IP=10.0.0.11
CLUSTER_LB=none
CLUSTER_VIP=
CLUSTER_POD_CIDR=10.244.0.0/16
CLUSTER_SERVICE_CIDR=10.96.0.0/12
CLUSTER_CNI=bridge
CLUSTER_KUBERNETES_VERSION=v1.20.2
CLUSTER_REGISTRY=registry.site.example:5000
CLUSTER_REGISTRY_IP=10.0.0.2
CLUSTER_IMAGE_REPOSITORY=registry.site.example:5000/kubernetes
CLUSTER_COREDNS=yes
CLUSTER_KUBE_PROXY=no
CLUSTER_JOIN_SECRET_FILE=${BATS_TEST_TMPDIR}/join.secret
FILE
  for change in "$@"; do
    sed -i "/^${change%%[=-]*}=/d" "${ENV}"
    [[ ${change} == *- ]] || printf '%s\n' "${change}" >>"${ENV}"
  done
}

validate() { lib 'trap_errors; config_load "$1"; config_validate; echo SOUND' "${ENV}"; }

# ------------------------------------------------------------------------------------------ config_load

@test "config_load: values as they are, quotes taken off, nothing executed" {
  printf '# comment\n\n  \nCLUSTER_NAME="a b"\nROLE='"'"'x'"'"'\r\nCLUSTER_LB=$(touch %s/never)`x`;exit\nCLUSTER_CNI=a=b\nCLUSTER_VIP=\nCLUSTER_REGISTRY="half' "${BATS_TEST_TMPDIR}" >"${ENV}"
  lib 'config_load "$1"; printf "[%s]" "${CLUSTER_NAME}" "${ROLE}" "${CLUSTER_LB}" "${CLUSTER_CNI}" "${CLUSTER_VIP}" "${CLUSTER_REGISTRY}"' "${ENV}"
  expect 0
  same "[a b][x][\$(touch ${BATS_TEST_TMPDIR}/never)\`x\`;exit][a=b][][\"half]" "${output}"
  [[ ! -e ${BATS_TEST_TMPDIR}/never ]]
}

@test "config_load: what the environment says does not count" {
  env_file
  CLUSTER_VIP_INTERFACE=eth9 CLUSTER_NAME=other lib 'config_load "$1"; echo "[${CLUSTER_VIP_INTERFACE}][${CLUSTER_NAME}]"' "${ENV}"
  same '[][demo]' "${output}"
}

@test "config_load: bad files, table" {
  local row
  for row in 'CLUSTER_NAM=x|:1: unknown key CLUSTER_NAM' 'PATH=/x|:1: unknown key PATH' 'CLUSTER_NAME=a~CLUSTER_NAME=b|:2: CLUSTER_NAME is set twice' '~~export CLUSTER_NAME=x|:3: not KEY=value' \
    'CLUSTER_NAME =x|:1: not KEY=value' 'cluster_name=x|:1: not KEY=value' 'CLUSTER_NAME|:1: not KEY=value' $'CLUSTER_NAME=a\tb|:1: CLUSTER_NAME has a control character' 'ROLE=|'; do
    tr '~' '\n' <<<"${row%|*}" >"${ENV}"
    echo "row: ${row}"
    lib 'config_load "$1"; echo LOADED' "${ENV}"
    if [[ -n ${row##*|} ]]; then expect 78 "${ENV}${row##*|}"; else expect 0 LOADED; fi
  done
  lib 'config_load /no/such/file'
  expect 78 'is no readable file'
  lib 'config_load "$1"' "${BATS_TEST_TMPDIR}"
  expect 78 'is no readable file'
}

@test "config_optional: only where there is no value" {
  lib 'A=1 B=; config_optional A x; config_optional B x; config_optional C "y z"; echo "${A}${B}${C}"'
  same '1xy z' "${output}"
}

# ----------------------------------------------------------------------------------------- config_check

@test "config_check: kinds, good values" {
  local row value values
  for row in 'ip 0.0.0.0 10.0.0.1 255.255.255.255' 'cidr 10.244.0.0/16 0.0.0.0/0 10.0.0.1/32' 'host a a-b a.b.c 10.0.0.1 1a.b' 'host_port a:1 a.b:65535 10.0.0.1:6443' 'port 1 65535' 'number 0 1 999' \
    'yes_no yes no' 'absolute_path /a /a/b.c /a..b' 'one_of:a,b-c a b-c' 'nodes a=1.2.3.4=first-master=amd64'; do
    read -r -a values <<<"${row}"
    for value in "${values[@]:1}"; do
      echo "${values[0]} ${value}"
      KEY=${value} lib 'config_check "$1" KEY' "${values[0]}"
      expect 0
      same '' "${output}"
    done
  done
}

@test "config_check: kinds, bad values" {
  local row value values
  for row in 'ip 10.0.0 10.0.0.256 010.0.0.1 a 1.2.3.4/8' 'cidr 10.0.0.0 10.0.0.1/8 10.0.0.0/33 10.0.0.0/08 ::/0' 'host A -a a- a..b .a a. a_b 1.2.3 300.1.1.1 a:1 -x' 'host_port a a: a:0 a:65536 :1 a:b a:01' \
    'port 0 65536 x -1 1.5 080' 'number -1 x 1.0 01 99999999999999999999' 'yes_no Yes true 1 y' 'absolute_path a ./a /a/../b / /a/' 'one_of:a,b c a,b , A' \
    'nodes a a=1.2.3.4 a=1.2.3.4=worker=amd64'; do
    read -r -a values <<<"${row}"
    for value in "${values[@]:1}"; do
      echo "${values[0]} ${value}"
      KEY=${value} lib 'config_check "$1" KEY' "${values[0]}"
      expect 1 'KEY'
    done
    lib 'config_check "$1" KEY' "${values[0]}"
    expect 1 'KEY is missing; expected is '
  done
}

@test "config_check: several keys, each told; values never are; an unknown kind" {
  A=SECRETA B=1.2.3.4 C=SECRETC lib 'config_check ip A B C'
  expect 1 'A is malformed; expected is an IPv4 address' 'C is malformed'
  refuse SECRET 'B is'
  A=x lib 'config_check colour A'
  expect 64 "'colour' is no kind"
}

# -------------------------------------------------------------------------------------- config_validate

@test "config_validate: sound ones, table" {
  local row changes
  env_file
  validate
  expect 0 SOUND
  for row in 'ROLE=first-master~CLUSTER_NODE_NAME=m1~CLUSTER_NODE_IP=10.0.0.11' 'ROLE=master~CLUSTER_NODE_NAME=m2.site~CLUSTER_NODE_IP=10.0.0.12' 'CLUSTER_ENDPOINT_IP=' \
    'CLUSTER_LB=external~CLUSTER_ENDPOINT=lb.site:8443~CLUSTER_ENDPOINT_IP=' 'CLUSTER_LB=nginx~CLUSTER_ENDPOINT=api.demo:16443~CLUSTER_ENDPOINT_IP=127.0.0.1' \
    'CLUSTER_LB=vip~CLUSTER_VIP=10.0.0.5~CLUSTER_ENDPOINT_IP=10.0.0.5~CLUSTER_VIP_INTERFACE=eth0.5' 'CLUSTER_CNI=none~CLUSTER_POD_CIDR=10.244.0.0/25' 'CLUSTER_POD_CIDR=10.244.0.0/22' \
    'REGISTRY_CA=' 'REGISTRY_MIRROR=mirror:5000/x' 'CLUSTER_REGISTRY_IP=' 'CLUSTER_REGISTRY=registry' 'CLUSTER_DNS_DOMAIN=k8s.site~CLUSTER_KEEP_RELEASES=1'; do
    IFS='~' read -r -a changes <<<"${row}"
    env_file "${changes[@]}"
    echo "row: ${row}"
    validate
    expect 0 SOUND
    same SOUND "${output}"
  done
}

@test "config_validate: defaults" {
  env_file
  lib 'config_load "$1"; config_validate; echo "${CLUSTER_DNS_DOMAIN} ${CLUSTER_KEEP_RELEASES}"' "${ENV}"
  same 'cluster.local 3' "${output}"
}

@test "config_validate: wrong ones, table" {
  local row changes
  for row in 'ROLE=boss|ROLE is malformed; expected is one of first-master,master,worker' 'INSTALLER_IMAGE=r/x:v1|INSTALLER_IMAGE is malformed' 'CLUSTER_NAME=Demo|CLUSTER_NAME is malformed' 'CLUSTER_NAME-|CLUSTER_NAME is missing' \
    'CLUSTER_NODE_NAME=w9|CLUSTER_NODE_NAME is none of CLUSTER_NODES' 'CLUSTER_NODE_IP=10.0.0.22|CLUSTER_NODE_IP is not the address' 'ROLE=master|ROLE is not the role' 'CLUSTER_NODE_IP=x|CLUSTER_NODE_IP is malformed' \
    'CLUSTER_NODES=|CLUSTER_NODES is missing' 'CLUSTER_NODES=w1=10.0.0.21=worker=arm64|the first entry must be the first-master' \
    'CLUSTER_NODES=m1=10.0.0.11=first-master=amd64 w1=10.0.0.11=worker=arm64|entry 2: another node has its address' 'CLUSTER_NODES=w1=10.0.0.11=first-master=amd64 w1=10.0.0.21=worker=arm64|entry 2: another node has its name' \
    'CLUSTER_NODES=m1=10.0.0.11=first-master=amd64 w1=10.0.0.21=first-master=arm64|entry 2: only the first entry' 'CLUSTER_NODES=m1=10.0.0.11=first-master=x86_64|entry 1: the architecture' \
    'CLUSTER_NODES=M1=10.0.0.11=first-master=amd64|entry 1: the name' 'CLUSTER_NODES=m1=10.0.0.11=first-master=amd64=x|entry 1: expected is NAME=IP=ROLE=ARCH' 'CLUSTER_NODES=10.0.0.11=10.0.0.11=first-master=amd64|entry 1: the name' \
    'CLUSTER_ENDPOINT=api.demo|CLUSTER_ENDPOINT is malformed' 'CLUSTER_ENDPOINT=api.demo:7443|must be 6443 with CLUSTER_LB=none' 'CLUSTER_ENDPOINT_IP=10.0.0.12|must be the first master' 'CLUSTER_LB=haproxy|CLUSTER_LB is malformed' \
    'CLUSTER_LB=nginx~CLUSTER_ENDPOINT_IP=127.0.0.1|must not be 6443' 'CLUSTER_LB=nginx~CLUSTER_ENDPOINT=api.demo:16443|must be 127.0.0.1' 'CLUSTER_VIP=10.0.0.5|are for CLUSTER_LB=vip only' 'CLUSTER_LB=vip|CLUSTER_VIP is missing' \
    'CLUSTER_LB=vip~CLUSTER_VIP=10.0.0.5|must be the same as CLUSTER_VIP' 'CLUSTER_LB=vip~CLUSTER_VIP=10.0.0.11|a node'"'"'s own address' 'CLUSTER_LB=vip~CLUSTER_VIP=10.0.0.5~CLUSTER_ENDPOINT_IP=10.0.0.5~CLUSTER_VIP_INTERFACE=-x|CLUSTER_VIP_INTERFACE is malformed' \
    'CLUSTER_POD_CIDR=10.100.0.0/16|CLUSTER_POD_CIDR and CLUSTER_SERVICE_CIDR overlap' 'CLUSTER_POD_CIDR=10.0.0.0/16|CLUSTER_POD_CIDR contains the address of the node w1' 'CLUSTER_SERVICE_CIDR=10.0.0.0/24|CLUSTER_SERVICE_CIDR contains the address of the node m1' \
    'CLUSTER_POD_CIDR=10.244.0.0/23|is too small: each of the 3 nodes' 'CLUSTER_POD_CIDR=10.244.0.0/25|is too small' 'CLUSTER_POD_CIDR=10.244.1.0/16|CLUSTER_POD_CIDR is malformed' 'CLUSTER_SERVICE_CIDR=11.0.0.0/8|must be between /12 and /28' \
    'CLUSTER_DNS_DOMAIN=a..b|CLUSTER_DNS_DOMAIN is malformed' 'CLUSTER_CNI=calico|CLUSTER_CNI is malformed' 'CLUSTER_KUBERNETES_VERSION=1.20.2|CLUSTER_KUBERNETES_VERSION is malformed' 'CLUSTER_REGISTRY=https://r|CLUSTER_REGISTRY is malformed' \
    'CLUSTER_REGISTRY=r:x|CLUSTER_REGISTRY is malformed' 'CLUSTER_IMAGE_REPOSITORY=registry:5000|CLUSTER_IMAGE_REPOSITORY is malformed' 'CLUSTER_IMAGE_REPOSITORY=registry:5000/K8s|CLUSTER_IMAGE_REPOSITORY is malformed' \
    'CLUSTER_COREDNS=true|CLUSTER_COREDNS is malformed; expected is yes or no' 'CLUSTER_KUBE_PROXY-|CLUSTER_KUBE_PROXY is missing' 'CLUSTER_KEEP_RELEASES=0|CLUSTER_KEEP_RELEASES is malformed' \
    'CLUSTER_JOIN_SECRET_FILE=/no/such|CLUSTER_JOIN_SECRET_FILE must name a readable file' 'REGISTRY_CA=/no/such|REGISTRY_CA must name a readable file' 'REGISTRY_AUTH_FILE=auth.json|REGISTRY_AUTH_FILE is malformed' 'REGISTRY_MIRROR=https://x|REGISTRY_MIRROR is malformed'; do
    IFS='~' read -r -a changes <<<"${row%|*}"
    env_file "${changes[@]}"
    echo "row: ${row}"
    validate
    expect 78 "${row##*|}" 'problems (listed above)'
    refuse SOUND 'a command failed'
  done
}

@test "config_validate: all problems at once, with their number" {
  env_file CLUSTER_NAME=X CLUSTER_POD_CIDR=1 CLUSTER_CNI=x CLUSTER_COREDNS-
  validate
  expect 78 'CLUSTER_NAME is malformed' 'CLUSTER_POD_CIDR is malformed' 'CLUSTER_CNI is malformed' 'CLUSTER_COREDNS is missing' 'has 4 problems'
  env_file CLUSTER_ENDPOINT=api:7443 CLUSTER_NODE_IP=10.0.0.99 CLUSTER_POD_CIDR=10.96.0.0/16
  validate
  expect 78 'must be 6443' 'CLUSTER_NODE_IP is not' 'overlap' 'has 3 problems'
}

@test "config_validate: a join secret that is open, short, or not hexadecimal; never a digit of it in the log" {
  local secret=${BATS_TEST_TMPDIR}/join.secret
  env_file
  chmod 0640 "${secret}"
  validate
  expect 78 'is open to others'
  refuse bbbb
  chmod 0600 "${secret}"
  printf '%s' "${SECRET}" >"${secret}"
  validate
  expect 0 SOUND
  for text in "${SECRET%b}" "${SECRET}b" "${SECRET^^}" '' "${SECRET% *}x"; do
    printf '%s\n' "${text}" >"${secret}"
    validate
    expect 78 'must hold 64 hex digits'
    refuse bbbb BBBB
  done
}

@test "config_validate: a secret in the wrong key is not told" {
  local key
  for key in CLUSTER_JOIN_SECRET_FILE CLUSTER_NAME CLUSTER_ENDPOINT CLUSTER_NODES CLUSTER_LB REGISTRY_AUTH_FILE CLUSTER_KEEP_RELEASES; do
    env_file "${key}=${SECRET}XYZ"
    validate
    expect 78 "${key}"
    refuse bbbb XYZ
  done
}
