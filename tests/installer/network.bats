#!/usr/bin/env bats
# lib/network.sh: routes to the other nodes' pods, in a network namespace of the test.

setup() {
  [[ ${EUID} -eq 0 ]] || skip "needs root"
  LIB=${BATS_TEST_DIRNAME}/../../installer-image/payload/lib
  export CLUSTER_NODE_NAME=m1
  NODES=$'m1 10.0.0.11 10.244.0.0/24\nm2 10.0.0.12 10.244.1.0/24\nw1 10.0.0.21 10.244.2.0/24'
}

# Runs a script with lib/ loaded where 10.0.0.11/24 is the own address.
in_network() {
  run env NODES="${NODES}" unshare --net bash -c "set -Eeuo pipefail; . '${LIB}/utils.sh'; ip link add eth9 type veth peer name eth8; ip link set eth8 up; ip addr add 10.0.0.11/24 dev eth9; ip link set eth9 up; $1"
}

@test "pod_routes: one route to every other node's pods" {
  in_network 'pod_routes "${NODES}"; ip -4 route show proto 98'
  [[ ${status} -eq 0 && ${#lines[@]} -eq 2 && ${lines[0]} == '10.244.1.0/24 via 10.0.0.12 dev eth9'* && ${lines[1]} == '10.244.2.0/24 via 10.0.0.21'* ]] || {
    echo "${output}"
    false
  }
}

@test "pod_routes: a node that left takes its route along, a route of somebody else stays" {
  export FEWER=${NODES%$'\n'*}
  in_network 'ip route add 10.99.0.0/24 via 10.0.0.9; pod_routes "${NODES}"; pod_routes "${FEWER}"; ip -4 route'
  [[ ${status} -eq 0 && ${output} == *10.99.0.0/24* && ${output} == *10.244.1.0/24* && ${output} != *10.244.2.0/24* ]] || {
    echo "${output}"
    false
  }
}

@test "pod_routes: a node without addresses for pods is left out" {
  NODES=$'m1 10.0.0.11 10.244.0.0/24\nm2 10.0.0.12 '
  in_network 'pod_routes "${NODES}"; ip -4 route show proto 98'
  [[ ${status} -eq 0 && -z ${output} ]]
}

@test "pod_routes: a second time changes nothing" {
  in_network 'pod_routes "${NODES}"; before=$(ip -4 route); pod_routes "${NODES}"; [[ $(ip -4 route) == "${before}" ]]'
  [[ ${status} -eq 0 ]]
}
