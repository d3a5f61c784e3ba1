# shellcheck shell=bash
# Steps that make a host ready for Kubernetes: names, kernel, containerd, units. Each finds out what is there and changes what differs.

HOME_DIRECTORY=${HOME_DIRECTORY:-/opt/cluster-installer}
UNIT_DIRECTORY=${UNIT_DIRECTORY:-/etc/systemd/system}
CONTAINERD_SOCKET=/run/containerd/containerd.sock
MANIFESTS=${MANIFESTS:-/etc/kubernetes/manifests}
PARKED=${PARKED:-/etc/kubernetes/manifests.renewing}

#######################################
# Names of the registry, the nodes and the API in /etc/hosts.
# Globals: CLUSTER_REGISTRY CLUSTER_REGISTRY_IP CLUSTER_ENDPOINT_IP CLUSTER_NODES CLUSTER_ENDPOINT
#######################################
node_hosts() {
  { [[ -z ${CLUSTER_REGISTRY_IP} ]] || printf '%s %s\n' "${CLUSTER_REGISTRY_IP}" "${CLUSTER_REGISTRY%:*}"; } | hosts_block registry
  {
    cluster_nodes | awk '{ print $2, $1 }'
    [[ -z ${CLUSTER_ENDPOINT_IP} ]] || printf '%s %s\n' "${CLUSTER_ENDPOINT_IP}" "$(endpoint_host)"
  } | hosts_block nodes
}

#######################################
# Kernel features that containers and the pod network need: now, and at every boot.
# A feature that is built in has no module to load, so the feature is asked for, not the module.
# Returns: 1 if one is not to be had
#######################################
node_modules() {
  local module proof missing=0
  printf '%s\n' overlay br_netfilter nf_conntrack | write_file /etc/modules-load.d/cluster-installer.conf 0644
  while read -r module proof; do
    [[ ! -e ${proof} ]] || continue
    modprobe -- "${module}" 2>/dev/null || true # whether it helped is seen below
    if [[ ${module} == overlay ]] && grep -qw overlay /proc/filesystems; then continue; fi
    if [[ ! -e ${proof} ]]; then
      log_error "the kernel $(uname -r) has no ${module}; install its package of kernel modules (kernel-modules, linux-modules-extra)"
      missing=1
    fi
  done <<'LIST'
overlay /sys/module/overlay
br_netfilter /proc/sys/net/bridge/bridge-nf-call-iptables
nf_conntrack /proc/sys/net/netfilter/nf_conntrack_max
LIST
  return "${missing}"
}

#######################################
# Kernel parameters of the pod network: now, and at every boot.
#######################################
node_sysctls() {
  write_file /etc/sysctl.d/90-cluster-installer.conf 0644 <<'LIST'
net.ipv4.ip_forward = 1
net.bridge.bridge-nf-call-iptables = 1
net.bridge.bridge-nf-call-ip6tables = 1
LIST
  sysctl --quiet --load=/etc/sysctl.d/90-cluster-installer.conf
}

#######################################
# Which cgroup driver fits: systemd's where systemd is the init, else the plain file system.
# Outputs: systemd or cgroupfs
#######################################
cgroup_driver() {
  local init
  init=$(</proc/1/comm)
  if [[ ${init} == systemd ]]; then echo systemd; else echo cgroupfs; fi
}

#######################################
# Whether a score below the own one may be given to a container: it needs CAP_SYS_RESOURCE (bit 24), which nodes inside of containers lack.
# Outputs: true or false, as containerd's restrict_oom_score_adj wants it
#######################################
restrict_oom_score() {
  local capabilities
  capabilities=$(awk '/^CapEff:/ { print $2 }' /proc/self/status)
  if (((16#${capabilities} >> 24) & 1)); then echo false; else echo true; fi
}

#######################################
# What the site's credentials hold for a registry, as preflight has tried it.
# Globals: REGISTRY_AUTH_FILE
# Arguments: registry, as host[:port]
# Outputs: base64 of user:password; nothing if there is none
#######################################
registry_auth() {
  [[ -n ${REGISTRY_AUTH_FILE} ]] || return 0
  registry_credentials "${REGISTRY_AUTH_FILE}" "$1"
}

#######################################
# Configuration of containerd, and how it reaches the site's registry: certificate, mirror, credentials.
# Globals: CLUSTER_REGISTRY CLUSTER_IMAGE_REPOSITORY REGISTRY_CA REGISTRY_MIRROR KUBERNETES_VERSION CLUSTER_RELEASE
#######################################
node_containerd_config() {
  local auth certificates=/etc/containerd/certs.d
  # shellcheck disable=SC2034 # the template reads them
  local SANDBOX_IMAGE CGROUP_SYSTEMD=false RESTRICT_OOM REGISTRY_CREDENTIALS='' MIRROR_HOST='' CA_LINE=''
  SANDBOX_IMAGE=$(kubeadm config images list --image-repository "${CLUSTER_IMAGE_REPOSITORY}" --kubernetes-version "${KUBERNETES_VERSION}" 2>/dev/null | grep '/pause:')
  [[ $(cgroup_driver) != systemd ]] || CGROUP_SYSTEMD=true
  RESTRICT_OOM=$(restrict_oom_score)
  auth=$(registry_auth "${CLUSTER_REGISTRY}")
  [[ -z ${auth} ]] || REGISTRY_CREDENTIALS="[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"${CLUSTER_REGISTRY}\".auth]"$'\n'"  auth = \"${auth}\""
  [[ -z ${REGISTRY_CA} ]] || CA_LINE="  ca = \"${REGISTRY_CA}\""
  [[ -z ${REGISTRY_MIRROR} ]] || MIRROR_HOST=$(printf '[host."https://%s"]\n  capabilities = ["pull", "resolve"]\n%s' "${REGISTRY_MIRROR}" "${CA_LINE}")
  render_template "${CLUSTER_RELEASE}/templates/containerd.toml" | write_file /etc/containerd/config.toml 0600
  mkdir -p "${certificates}/${CLUSTER_REGISTRY}"
  render_template "${CLUSTER_RELEASE}/templates/hosts.toml" | write_file "${certificates}/${CLUSTER_REGISTRY}/hosts.toml" 0644
}

#######################################
# systemd units, and the commands on PATH. Links go through `current`, so a change of release is one rename.
# Globals: CLUSTER_RELEASE HOME_DIRECTORY UNIT_DIRECTORY
#######################################
node_units() {
  local unit file before after
  before=$(changes_count)
  for unit in "${CLUSTER_RELEASE}"/systemd/*; do
    write_file "${UNIT_DIRECTORY}/${unit##*/}" 0644 <"${unit}"
  done
  after=$(changes_count)
  ((after == before)) || systemctl daemon-reload
  mkdir -p /opt/cni/bin /usr/local/bin
  for file in kubeadm/kubeadm kubelet/kubelet kubectl/kubectl crictl/crictl etcdctl/etcdctl; do
    [[ ! -e ${CLUSTER_RELEASE}/components/${file} ]] || swap_link "${HOME_DIRECTORY}/current/components/${file}" "/usr/local/bin/${file##*/}"
  done
  swap_link "${HOME_DIRECTORY}/current/bin/cluster-installer" /usr/local/bin/cluster-installer
  for file in "${CLUSTER_RELEASE}"/components/cni-plugins/*; do
    swap_link "${HOME_DIRECTORY}/current/components/cni-plugins/${file##*/}" "/opt/cni/bin/${file##*/}"
  done
  printf 'runtime-endpoint: unix://%s\nimage-endpoint: unix://%s\n' "${CONTAINERD_SOCKET}" "${CONTAINERD_SOCKET}" | write_file /etc/crictl.yaml 0644
  systemctl --quiet enable containerd.service kubelet.service
}

#######################################
# Sum over the files that a service was started from.
# Arguments: files; those that do not exist count as empty
# Outputs: one sha256
#######################################
service_sum() {
  { cat -- "$@" 2>/dev/null || true; } | sha256sum | cut -d' ' -f1
}

#######################################
# Notes that a service runs with the files as they are now.
# Globals: STATE_DIR
# Arguments: service, files
#######################################
service_stamp() {
  local service=$1
  shift
  mkdir -p "${STATE_DIR}/services"
  service_sum "$@" >"${STATE_DIR}/services/${service}"
}

#######################################
# Makes a service run, and run with the files as they are now: starts it anew only if they are others than at its last start.
# Globals: STATE_DIR
# Arguments: service, files that it was started from
#######################################
service_current() {
  local service=$1 known='' sum
  shift
  sum=$(service_sum "$@")
  [[ ! -e ${STATE_DIR}/services/${service} ]] || known=$(<"${STATE_DIR}/services/${service}")
  if [[ ${known} == "${sum}" ]] && systemctl --quiet is-active "${service}"; then return 0; fi
  systemctl restart "${service}"
  note_change "restarted ${service}"
  service_stamp "${service}" "$@"
}

#######################################
# containerd runs, with the configuration of this release, and answers.
# Globals: CLUSTER_RELEASE UNIT_DIRECTORY CONTAINERD_SOCKET
#######################################
node_containerd() {
  node_containerd_config
  service_current containerd.service /etc/containerd/config.toml "${UNIT_DIRECTORY}/containerd.service" "${CLUSTER_RELEASE}/components/containerd/containerd"
  wait_until --deadline 60 "containerd to answer on ${CONTAINERD_SOCKET}" "${CLUSTER_RELEASE}/components/containerd/ctr" --address "${CONTAINERD_SOCKET}" version
}

#######################################
# Puts manifests of static pods back that an interrupted renewal of certificates has parked.
# Globals: MANIFESTS PARKED
#######################################
node_manifests() {
  local file
  for file in "${PARKED}"/*.yaml; do
    [[ ! -e ${file} ]] || mv -- "${file}" "${MANIFESTS}/"
  done
}

#######################################
# kubelet runs with the binary and the configuration that are there now.
# Globals: CLUSTER_RELEASE UNIT_DIRECTORY
#######################################
node_kubelet() {
  node_manifests
  service_current kubelet.service "${KUBELET_FILES[@]}" "${CLUSTER_RELEASE}/components/kubelet/kubelet"
}

#######################################
# Notes that kubeadm has just started kubelet, with what is there now.
# Globals: CLUSTER_RELEASE KUBELET_FILES
#######################################
kubelet_was_started() {
  service_stamp kubelet.service "${KUBELET_FILES[@]}" "${CLUSTER_RELEASE}/components/kubelet/kubelet"
}

# What kubelet reads when it starts.
KUBELET_FILES=(/var/lib/kubelet/config.yaml /var/lib/kubelet/kubeadm-flags.env /etc/default/kubelet /etc/sysconfig/kubelet "${UNIT_DIRECTORY}/kubelet.service")

#######################################
# The timer that renews this master's certificates.
#######################################
node_certificates_timer() {
  systemctl --quiet enable cert-renew.timer
  systemctl start cert-renew.timer
}
