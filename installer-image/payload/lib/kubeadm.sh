# shellcheck shell=bash
# kubeadm's own phases, one by one: each is a step with its own time, and an interrupted installation goes on where it stopped.

KUBEADM_CONFIG=/etc/kubernetes/kubeadm.yaml
API_DEADLINE=600 # seconds for the control plane to answer: images are pulled in it, and a node may be emulated

#######################################
# The version of kubeadm's configuration that this kubeadm reads.
# v1beta2: 1.15 to 1.21 and deprecated after; v1beta3: 1.22 on; v1beta4: 1.31 on.
# https://kubernetes.io/docs/reference/config-api/kubeadm-config.v1beta4/
# Outputs: v1beta2, v1beta3 or v1beta4
#######################################
kubeadm_api_version() {
  local minor
  minor=$(kubernetes_minor)
  if ((minor < 22)); then
    echo v1beta2
  elif ((minor < 31)); then
    echo v1beta3
  else
    echo v1beta4
  fi
}

#######################################
# Sets what the templates of kubeadm's configuration use.
# Globals: API_VERSION KUBELET_ARGUMENTS CGROUP_DRIVER CERT_NAMES CONTROL_PLANE (set) CERTIFICATE_KEY ROLE CLUSTER_*
#######################################
kubeadm_values() {
  API_VERSION=$(kubeadm_api_version)
  CGROUP_DRIVER=$(cgroup_driver)
  if [[ ${API_VERSION} == v1beta4 ]]; then # arguments became a list
    KUBELET_ARGUMENTS="[{name: node-ip, value: \"${CLUSTER_NODE_IP}\"}]"
  else
    KUBELET_ARGUMENTS="{node-ip: \"${CLUSTER_NODE_IP}\"}"
  fi
  CERT_NAMES=$({
    endpoint_host
    printf '127.0.0.1\n%s\n' "${CLUSTER_ENDPOINT_IP}"
    cluster_masters | tr ' ' '\n'
  } | awk 'NF && !seen[$0]++ { printf "%s\"%s\"", separator, $0; separator = ", " }')
  CONTROL_PLANE=''
  if [[ ${ROLE} == master ]]; then
    CONTROL_PLANE=$(printf 'controlPlane:\n  certificateKey: "%s"\n  localAPIEndpoint:\n    advertiseAddress: "%s"\n    bindPort: 6443' "${CERTIFICATE_KEY-}" "${CLUSTER_NODE_IP}")
  fi
  : "${API_VERSION}" "${CGROUP_DRIVER}" "${KUBELET_ARGUMENTS}" "${CERT_NAMES}" "${CONTROL_PLANE}" # the templates read them
}

#######################################
# Writes the configuration that the first master is made from. It holds no secret.
# Globals: KUBEADM_CONFIG CLUSTER_RELEASE
#######################################
kubeadm_config() {
  kubeadm_values
  mkdir -p /etc/kubernetes
  render_template "${CLUSTER_RELEASE}/templates/kubeadm-init.yaml" | write_file "${KUBEADM_CONFIG}" 0600
}

#######################################
# One phase of kubeadm init.
# Globals: KUBEADM_CONFIG
# Arguments: the phase's words
#######################################
init_phase() {
  kubeadm init phase "$@" --config "${KUBEADM_CONFIG}"
}

#######################################
# kubeadm's own checks; ours were made before. Images are not pulled here: kubelet pulls them, with the registry's credentials.
#######################################
init_preflight() {
  init_phase preflight --ignore-preflight-errors=ImagePull,Swap,SystemVerification
}

#######################################
# Starts kubelet for the first time.
#######################################
init_kubelet() {
  init_phase kubelet-start
  kubelet_was_started
}

#######################################
# The API server answers on this node and finds itself ready.
#######################################
api_ready() {
  kube_admin --server="https://${CLUSTER_NODE_IP}:6443" get --raw=/readyz
}

wait_for_api() {
  systemctl start kubelet.service # it runs already, unless somebody stopped it
  wait_until --deadline "${API_DEADLINE}" "the API server of this node to be ready (https://${CLUSTER_NODE_IP}:6443/readyz)" api_ready
  wait_until --deadline 120 "the API to answer at its endpoint ${CLUSTER_ENDPOINT}" kube_admin get --raw=/readyz
}

#######################################
# Addons as the configuration wants them.
# Globals: CLUSTER_KUBE_PROXY CLUSTER_COREDNS
#######################################
init_addons() {
  [[ ${CLUSTER_KUBE_PROXY} == no ]] || init_phase addon kube-proxy
  [[ ${CLUSTER_COREDNS} == no ]] || init_phase addon coredns
}

#######################################
# kubeconfig of the administrator for root, unless there is another one.
#######################################
admin_kubeconfig() {
  local config=~root/.kube/config
  if [[ -e ${config} ]] && ! grep -q "server: https://${CLUSTER_ENDPOINT}\$" "${config}"; then
    log_warn "${config} belongs to another cluster and stays; this cluster's is /etc/kubernetes/admin.conf"
    return 0
  fi
  mkdir -p "${config%/*}" && chmod 0700 "${config%/*}"
  write_file "${config}" 0600 </etc/kubernetes/admin.conf
}

#######################################
# The steps of kubeadm init, in its order.
#######################################
install_first_master() {
  step kubeadm-config kubeadm_config
  step kubeadm-preflight once kubeadm-preflight init_preflight
  step note-identity release_note_identity
  step kubeadm-certs once kubeadm-certs init_phase certs all
  step kubeadm-kubeconfig once kubeadm-kubeconfig init_phase kubeconfig all
  always pod-routes node_pod_routes
  step kubeadm-kubelet-start once kubeadm-kubelet-start init_kubelet
  step kubeadm-control-plane once kubeadm-control-plane init_phase control-plane all
  step kubeadm-etcd once kubeadm-etcd init_phase etcd local
  step wait-for-api wait_for_api
  step kubeadm-upload-config once kubeadm-upload-config init_phase upload-config all
  step kubeadm-mark once kubeadm-mark init_phase mark-control-plane
  step kubeadm-kubelet-finalize once kubeadm-kubelet-finalize init_phase kubelet-finalize all
  step kubeadm-addons once kubeadm-addons init_addons
  step admin-kubeconfig admin_kubeconfig
}

#######################################
# One phase of kubeadm join, in a program of its own: errexit is on in it however it is called, and it cleans up behind itself.
# Globals: CLUSTER_RELEASE
# Arguments: the phase's words
#######################################
join_phase() {
  "${CLUSTER_RELEASE}/bin/kubeadm-join" "$@"
}

#######################################
# Joins through TLS bootstrap. Done if an earlier try got so far that kubelet has its own certificate.
#######################################
join_kubelet() {
  if [[ -s /etc/kubernetes/kubelet.conf ]] && systemctl --quiet is-active kubelet.service && kube_node get node "${CLUSTER_NODE_NAME}" >/dev/null 2>&1; then
    log_info "kubelet has its certificate already"
  else
    # A node of that name that was reset moments ago counts as Ready for 40 s more, and kubeadm refuses until then.
    retry --attempts 8 --delay 10 --max-delay 10 -- join_phase kubelet-start
  fi
  kubelet_was_started
}

#######################################
# The member of etcd on this master. Two masters cannot join at the same moment: the second one tries again.
#######################################
join_etcd() {
  retry --attempts 10 --delay 5 --max-delay 15 -- join_phase control-plane-join etcd
}

#######################################
# The steps of kubeadm join of a further master, in its order.
#######################################
install_master() {
  step wait-for-cluster wait_for_cluster
  step kubeadm-preflight once kubeadm-preflight join_phase preflight --ignore-preflight-errors=ImagePull,Swap,SystemVerification
  step note-identity release_note_identity
  step kubeadm-control-plane once kubeadm-control-plane join_phase control-plane-prepare all
  always pod-routes node_pod_routes
  step kubeadm-kubelet-start once kubeadm-kubelet-start join_kubelet
  step kubeadm-etcd once kubeadm-etcd join_etcd
  step wait-for-api wait_for_api
  if (($(kubernetes_minor) < 22)); then # ClusterStatus went with 1.22
    step kubeadm-update-status once kubeadm-update-status join_phase control-plane-join update-status
  fi
  step kubeadm-mark once kubeadm-mark join_phase control-plane-join mark-control-plane
  step admin-kubeconfig admin_kubeconfig
}

#######################################
# The steps of kubeadm join of a worker, in its order.
#######################################
install_worker() {
  step wait-for-cluster wait_for_cluster
  step kubeadm-preflight once kubeadm-preflight join_phase preflight --ignore-preflight-errors=ImagePull,Swap,SystemVerification
  step note-identity release_note_identity
  always pod-routes node_pod_routes
  step kubeadm-kubelet-start once kubeadm-kubelet-start join_kubelet
}
