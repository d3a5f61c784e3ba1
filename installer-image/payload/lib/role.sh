# shellcheck shell=bash
# What every role has in common. A role is a file with exactly three functions: pre_install, install and post_install.

#######################################
# Runs one phase of a role. Called by the role's file, which bin/install runs as a child for each phase: errexit is on inside.
# Globals: CLUSTER_RELEASE CLUSTER_ENV_FILE RUN_DIRECTORY CHECKPOINT_KEY
# Arguments: phase
# Returns: exits as the phase does
#######################################
role_main() {
  trap_errors
  role_settings
  mkdir -p "${RUN_DIRECTORY}" && chmod 0700 "${RUN_DIRECTORY}"
  checkpoint_open "${CHECKPOINT_KEY}"
  case ${1-} in
    pre_install | install | post_install) "$1" ;;
    *) die 64 "a role has the phases pre_install, install and post_install" ;;
  esac
}

#######################################
# Reads and checks the configuration and what the payload says of itself.
# Globals: CLUSTER_ENV_FILE CLUSTER_RELEASE KUBERNETES_VERSION PAYLOAD_VERSION PAYLOAD_ARCH (set) PATH (set)
# Returns: exits 78 if something is wrong
#######################################
role_settings() {
  local key value
  export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  umask 022
  config_load "${CLUSTER_ENV_FILE}"
  config_validate
  while IFS='=' read -r key value; do
    case ${key} in
      PAYLOAD_VERSION | PAYLOAD_ARCH | KUBERNETES_VERSION) printf -v "${key}" '%s' "${value}" ;;
      *) ;;
    esac
  done <"${CLUSTER_RELEASE}/payload.env"
  [[ ${CLUSTER_KUBERNETES_VERSION} == "${KUBERNETES_VERSION}" ]] ||
    die 78 "CLUSTER_KUBERNETES_VERSION is ${CLUSTER_KUBERNETES_VERSION}, and this payload (${PAYLOAD_VERSION}) installs ${KUBERNETES_VERSION}: use the payload that fits, or correct the key"
  release_identity
}

#######################################
# The first part of every role: the host is checked, then made ready.
# Globals: ROLE
#######################################
prepare_host() {
  step preflight once preflight preflight "${ROLE}"
  step activate release_activate
  step hosts node_hosts
  step modules node_modules
  step sysctls node_sysctls
  step units node_units
  always containerd node_containerd
}

#######################################
# A step that is done in every run, whatever earlier ones did: services run, and health is asked for anew.
# Arguments: name, function, its arguments
#######################################
always() {
  checkpoint_forget "$1"
  step "$@"
}

#######################################
# Key of a role's checkpoints: this payload and this configuration. Another of either runs the steps again; they find out what is done.
# Globals: CLUSTER_RELEASE CLUSTER_ENV_FILE
# Arguments: role
# Outputs: the key
#######################################
role_checkpoints() {
  local sum
  sum=$(grep -v '^INSTALLER_IMAGE=' "${CLUSTER_ENV_FILE}" | sha256sum)
  printf '%s/%s/%s\n' "${CLUSTER_RELEASE##*/}" "${sum:0:16}" "$1"
}
