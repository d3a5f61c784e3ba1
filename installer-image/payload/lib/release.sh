# shellcheck shell=bash
# Releases of the payload on a node: which one is current, what the node was made with, which old ones go.

#######################################
# Makes this release the current one. The one before is remembered for a rollback.
# Globals: CLUSTER_RELEASE HOME_DIRECTORY STATE_DIR
#######################################
release_activate() {
  local before=''
  [[ ! -L ${HOME_DIRECTORY}/current ]] || before=$(readlink -f -- "${HOME_DIRECTORY}/current" || true)
  if [[ -n ${before} && ${before} != "${CLUSTER_RELEASE}" ]]; then
    printf '%s\n' "${before##*/}" | write_file "${STATE_DIR}/previous" 0600
  fi
  swap_link "releases/${CLUSTER_RELEASE##*/}" "${HOME_DIRECTORY}/current"
}

#######################################
# What cannot change once the cluster is made: a change is refused, as kubeadm has no way to follow it.
# Globals: STATE_DIR CLUSTER_NAME CLUSTER_NODE_NAME CLUSTER_NODE_IP CLUSTER_ENDPOINT CLUSTER_POD_CIDR CLUSTER_SERVICE_CIDR CLUSTER_DNS_DOMAIN
#   CLUSTER_CNI CLUSTER_KUBERNETES_VERSION ROLE
# Returns: exits 78 if something of it differs from what the node was made with
#######################################
release_identity() {
  local identity=${STATE_DIR}/node/identity key now changed=()
  [[ -e ${identity} ]] || return 0
  while IFS='=' read -r key now; do
    [[ ${!key-} == "${now}" ]] || changed+=("${key} was ${now}, is ${!key-}")
  done <"${identity}"
  ((${#changed[@]} == 0)) || die 78 "this node was made otherwise: $(printf '%s; ' "${changed[@]}")put the values back, or start anew with: cluster-installer reset"
}

#######################################
# Notes what the node is made with, from the moment on that a change would be too late.
# Globals: see release_identity
#######################################
release_note_identity() {
  local key
  mkdir -p "${STATE_DIR}/node"
  for key in CLUSTER_NAME CLUSTER_NODE_NAME CLUSTER_NODE_IP CLUSTER_ENDPOINT CLUSTER_POD_CIDR CLUSTER_SERVICE_CIDR CLUSTER_DNS_DOMAIN CLUSTER_CNI CLUSTER_KUBERNETES_VERSION ROLE; do
    printf '%s=%s\n' "${key}" "${!key}"
  done | write_file "${STATE_DIR}/node/identity" 0600
}

#######################################
# Does what makes the node a member of a cluster once in its life; a later release of the payload leaves it alone.
# Globals: STATE_DIR
# Arguments: name, function, its arguments
#######################################
once() {
  local marker=${STATE_DIR}/node/$1.done
  shift
  if [[ -e ${marker} ]]; then
    log_info "was done when this node was made"
    return 0
  fi
  "$@"
  mkdir -p "${marker%/*}"
  write_file "${marker}" 0600 </dev/null
}

#######################################
# Removes old releases: CLUSTER_KEEP_RELEASES stay, the current and the previous one before all, then the newest.
# Globals: HOME_DIRECTORY STATE_DIR CLUSTER_KEEP_RELEASES
#######################################
release_prune() {
  local current previous='' release left
  current=$(readlink -f -- "${HOME_DIRECTORY}/current")
  [[ ! -e ${STATE_DIR}/previous ]] || previous=$(<"${STATE_DIR}/previous")
  left=$((CLUSTER_KEEP_RELEASES - 1))
  [[ -z ${previous} ]] || left=$((left - 1))
  while read -r release; do
    if [[ ${release} == "${current##*/}" || ${release} == "${previous}" ]]; then continue; fi
    left=$((left - 1))
    ((left < 0)) || continue
    rm -rf -- "${HOME_DIRECTORY:?}/releases/${release}" "${STATE_DIR:?}/checkpoints/${release}"
    note_change "removed the old release ${release:0:12}"
  done < <(cd -- "${HOME_DIRECTORY}/releases" && ls -1t)
}
