# shellcheck shell=bash
# The pod network of CLUSTER_CNI=bridge: one bridge per node, addresses by host-local, and a route to every other node's pods.

#######################################
# Starts what keeps the pod network, before kubelet: it waits for the node to register, and has CNI's configuration there while kubeadm
# still waits for kubelet's certificate, which it looks for every five seconds only.
# Globals: CLUSTER_CNI CLUSTER_RELEASE UNIT_DIRECTORY
#######################################
node_pod_routes() {
  if [[ ${CLUSTER_CNI} == none ]]; then
    log_info "CLUSTER_CNI=none: the site brings its own pod network"
    return 0
  fi
  systemctl --quiet enable pod-routes.service
  service_current pod-routes.service "${CLUSTER_RELEASE}/bin/pod-routes" "${CLUSTER_RELEASE}/templates/cni-bridge.json" "${UNIT_DIRECTORY}/pod-routes.service"
}

#######################################
# This node has addresses for pods, CNI's configuration and routes.
# Globals: CLUSTER_CNI CLUSTER_RELEASE
#######################################
node_network() {
  [[ ${CLUSTER_CNI} != none ]] || return 0
  wait_until --deadline 300 "the cluster to give this node addresses for pods" "${CLUSTER_RELEASE}/bin/pod-routes" --once
}

#######################################
# Addresses of all nodes' pods, as the cluster gave them.
# Outputs: per node: name, address, CIDR of its pods (may be missing)
#######################################
pod_networks() {
  kube_node get nodes --output 'jsonpath={range .items[*]}{.metadata.name} {.status.addresses[?(@.type=="InternalIP")].address} {.spec.podCIDR}{"\n"}{end}'
}

#######################################
# Writes the CNI configuration of this node's pods.
# Globals: CLUSTER_RELEASE CLUSTER_POD_CIDR
# Arguments: CIDR of this node's pods
#######################################
pod_cni() {
  # shellcheck disable=SC2034 # the template reads it
  local NODE_POD_CIDR=$1
  mkdir -p /etc/cni/net.d
  render_template "${CLUSTER_RELEASE}/templates/cni-bridge.json" | write_file /etc/cni/net.d/10-cluster.conflist 0644
}

#######################################
# Puts the routes to the other nodes' pods, and removes those that nobody needs. Ours have protocol 98: no other route is touched.
# Arguments: lines of pod_networks
#######################################
pod_routes() {
  local name address cidr route wanted=()
  while read -r name address cidr; do
    [[ -n ${cidr} && ${name} != "${CLUSTER_NODE_NAME}" ]] || continue
    wanted+=("${cidr} via ${address}")
    ip route replace "${cidr}" via "${address}" proto 98
  done <<<"$1"
  while read -r route; do
    [[ -n ${route} ]] || continue
    printf '%s\n' ${wanted[@]+"${wanted[@]}"} | grep -q "^${route%% *} via " || ip route del "${route%% *}" proto 98
  done < <(ip -4 route show proto 98)
}
