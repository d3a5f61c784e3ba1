# shellcheck shell=bash
# What has to be true before an installation calls itself done.

NODE_DEADLINE=600 # seconds: images of the pod network and of addons are pulled in it

#######################################
# etcdctl with this master's certificates.
# Arguments: etcdctl's
#######################################
etcd_here() {
  ETCDCTL_API=3 etcdctl --endpoints=https://127.0.0.1:2379 --dial-timeout=3s --command-timeout=8s --cacert=/etc/kubernetes/pki/etcd/ca.crt \
    --cert=/etc/kubernetes/pki/etcd/healthcheck-client.crt --key=/etc/kubernetes/pki/etcd/healthcheck-client.key "$@"
}

#######################################
# This master's etcd is healthy, and every member that the cluster knows has started.
# Outputs: what is wrong
# Returns: 1 if something is
#######################################
etcd_healthy() {
  local members
  etcd_here endpoint health >/dev/null 2>&1 || {
    echo "etcd on this node does not answer as healthy"
    return 1
  }
  members=$(etcd_here member list) || return 1
  if ! grep -q ", started, ${CLUSTER_NODE_NAME}," <<<"${members}"; then
    echo "${CLUSTER_NODE_NAME} is no started member of etcd: ${members}"
    return 1
  fi
  if grep -v ', started, ' <<<"${members}"; then return 1; fi
}

#######################################
# The static pods of this master, asked themselves: what the API says of them lags a minute behind, as kubelet reports static pods late.
# Globals: CLUSTER_NODE_IP
# Outputs: those that do not answer as healthy
# Returns: 1 if there are any
#######################################
static_pods_healthy() {
  local name url answer wrong=0
  while read -r name url; do
    answer=$(curl --silent --insecure --max-time 5 "${url}") || true
    if [[ ${answer} != ok ]]; then
      echo "${name} is not healthy: ${url} says '${answer}'"
      wrong=1
    fi
  done <<LIST
kube-apiserver https://${CLUSTER_NODE_IP}:6443/readyz
kube-controller-manager https://127.0.0.1:10257/healthz
kube-scheduler https://127.0.0.1:10259/healthz
LIST
  return "${wrong}"
}

#######################################
# Whether this node is Ready.
# Outputs: its condition, or kubelet's reason
# Returns: 1 if it is not
#######################################
node_ready() {
  local status
  status=$(kube_node get node "${CLUSTER_NODE_NAME}" --output 'jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.message}{end}') || return 1
  printf '%s\n' "${status}"
  [[ ${status%% *} == True ]]
}

#######################################
# The pods of kube-proxy on this node, or of the cluster's DNS, are ready.
# Arguments: label of the pods; a field selector, may be empty
# Returns: 1 if there are none, or not all are
#######################################
pods_ready() {
  local states
  states=$(kube_node --namespace=kube-system get pods --selector "$1" --field-selector "${2-}" --output \
    'jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}') || return 1
  [[ -n ${states} ]] || {
    echo "no pod with ${1} yet"
    return 1
  }
  ! grep -vx True <<<"${states}"
}

#######################################
# Health of a node of any role.
# Globals: CLUSTER_CNI CLUSTER_KUBE_PROXY CLUSTER_NODE_NAME
#######################################
wait_for_node() {
  if [[ ${CLUSTER_CNI} == none ]]; then
    wait_until --deadline "${NODE_DEADLINE}" "this node to register" kube_node get node "${CLUSTER_NODE_NAME}"
    log_warn "CLUSTER_CNI=none: the node gets Ready when the site has applied its own pod network"
    return 0
  fi
  wait_until --deadline "${NODE_DEADLINE}" "this node to get Ready" node_ready
  [[ ${CLUSTER_KUBE_PROXY} == no ]] ||
    wait_until --deadline "${NODE_DEADLINE}" "kube-proxy on this node" pods_ready k8s-app=kube-proxy "spec.nodeName=${CLUSTER_NODE_NAME}"
}

#######################################
# Health of a master besides.
#######################################
wait_for_master() {
  wait_until --deadline "${NODE_DEADLINE}" "etcd's members" etcd_healthy
  wait_until --deadline "${NODE_DEADLINE}" "the static pods of this master" static_pods_healthy
}

#######################################
# The cluster's DNS, if the configuration has one and its pods can run.
# Globals: CLUSTER_COREDNS CLUSTER_CNI
#######################################
wait_for_dns() {
  if [[ ${CLUSTER_COREDNS} == no || ${CLUSTER_CNI} == none ]]; then
    log_info "no DNS of ours to wait for"
    return 0
  fi
  wait_until --deadline "${NODE_DEADLINE}" "the cluster's DNS" pods_ready k8s-app=kube-dns
}
