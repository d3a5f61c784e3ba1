# shellcheck shell=bash
# What the configuration says of the cluster: nodes, masters, the API's endpoint. Reads CLUSTER_* variables only.

#######################################
# Prints every node, one per line: name, address, role, arch.
# Globals: CLUSTER_NODES
# Outputs: the lines, in the order of the configuration
#######################################
cluster_nodes() {
  local node
  for node in ${CLUSTER_NODES}; do
    printf '%s\n' "${node//=/ }"
  done
}

#######################################
# Prints name and address of the masters, the first one first.
# Globals: CLUSTER_NODES
# Outputs: one master per line
#######################################
cluster_masters() {
  cluster_nodes | awk '$3 != "worker" { print $1, $2 }'
}

#######################################
# Globals: CLUSTER_ENDPOINT
# Outputs: host name of the API's endpoint
#######################################
endpoint_host() {
  printf '%s\n' "${CLUSTER_ENDPOINT%:*}"
}

#######################################
# Globals: CLUSTER_ENDPOINT
# Outputs: port of the API's endpoint
#######################################
endpoint_port() {
  printf '%s\n' "${CLUSTER_ENDPOINT##*:}"
}

#######################################
# Globals: KUBERNETES_VERSION
# Outputs: the minor version, 20 for v1.20.2
#######################################
kubernetes_minor() {
  local version=${KUBERNETES_VERSION#v1.}
  printf '%s\n' "${version%%.*}"
}

#######################################
# Runs kubectl with an administrator's rights. On masters only.
# Globals: none
# Arguments: kubectl's arguments
# Returns: kubectl's exit code
#######################################
kube_admin() {
  kubectl --kubeconfig=/etc/kubernetes/admin.conf --request-timeout=10s "$@"
}

#######################################
# Runs kubectl with this node's own rights, which every node has: they suffice to read nodes and pods.
# Globals: none
# Arguments: kubectl's arguments
# Returns: kubectl's exit code
#######################################
kube_node() {
  kubectl --kubeconfig=/etc/kubernetes/kubelet.conf --request-timeout=10s "$@"
}
