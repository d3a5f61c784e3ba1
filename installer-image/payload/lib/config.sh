# shellcheck shell=bash
# cluster.env: read as data, never sourced; then every key and how they fit together. No value is ever printed: a secret may
# have got into the wrong key.

CONFIG_HOOK_KEYS=(INSTALLER_IMAGE ROLE REGISTRY_CA REGISTRY_AUTH_FILE REGISTRY_MIRROR)
CONFIG_KEYS=(
  CLUSTER_NAME CLUSTER_NODE_NAME CLUSTER_NODE_IP CLUSTER_NODES CLUSTER_ENDPOINT CLUSTER_ENDPOINT_IP CLUSTER_LB CLUSTER_VIP
  CLUSTER_VIP_INTERFACE CLUSTER_POD_CIDR CLUSTER_SERVICE_CIDR CLUSTER_DNS_DOMAIN CLUSTER_CNI CLUSTER_KUBERNETES_VERSION
  CLUSTER_REGISTRY CLUSTER_REGISTRY_IP CLUSTER_IMAGE_REPOSITORY CLUSTER_COREDNS CLUSTER_KUBE_PROXY CLUSTER_JOIN_SECRET_FILE
  CLUSTER_KEEP_RELEASES
)

CONFIG_LABEL='[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?'
CONFIG_HOST="${CONFIG_LABEL}(\\.${CONFIG_LABEL})*"
CONFIG_REGISTRY='([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(:[0-9]+)?' # as the hook has it
CONFIG_PATH='(/[a-z0-9]+([._-]+[a-z0-9]+)*)'

#######################################
# Reads a file of KEY=value lines into shell variables of those names. Keys that it does not have become empty, also if the
# environment has them.
# Globals: CONFIG_FILE and every key (set)
# Arguments: file
# Returns: exits 78 with file:line on an unknown or doubled key, or a line that is no KEY=value
#######################################
config_load() {
  local line key value number=0 known=" ${CONFIG_HOOK_KEYS[*]} ${CONFIG_KEYS[*]} " seen=' '
  CONFIG_FILE=$1
  [[ -f ${CONFIG_FILE} && -r ${CONFIG_FILE} ]] || die 78 "${CONFIG_FILE} is no readable file; the site's cloud-init seed writes it"
  for key in "${CONFIG_HOOK_KEYS[@]}" "${CONFIG_KEYS[@]}"; do printf -v "${key}" '%s' ''; done
  while IFS= read -r line || [[ -n ${line} ]]; do
    number=$((number + 1))
    line=${line%$'\r'}
    [[ ! ${line} =~ ^[[:space:]]*(#.*)?$ ]] || continue
    [[ ${line} =~ ^([A-Z][A-Z0-9_]*)=(.*)$ ]] || die 78 "${CONFIG_FILE}:${number}: not KEY=value"
    key=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
    if [[ ${value} =~ ^\"(.*)\"$ || ${value} =~ ^\'(.*)\'$ ]]; then value=${BASH_REMATCH[1]}; fi
    [[ ! ${value} =~ [[:cntrl:]] ]] || die 78 "${CONFIG_FILE}:${number}: ${key} has a control character in it"
    [[ ${known} == *" ${key} "* ]] || die 78 "${CONFIG_FILE}:${number}: unknown key ${key}; this installer knows:${known% }"
    [[ ${seen} != *" ${key} "* ]] || die 78 "${CONFIG_FILE}:${number}: ${key} is set twice"
    seen+="${key} "
    printf -v "${key}" '%s' "${value}"
  done <"${CONFIG_FILE}"
}

#######################################
# Gives a key a value unless it has one.
# Globals: the key (set)
# Arguments: key, default
#######################################
config_optional() {
  [[ -n ${!1-} ]] || printf -v "$1" '%s' "$2"
}

#######################################
# Tells one thing that is wrong, and counts it.
# Globals: CONFIG_FILE CONFIG_PROBLEMS (added to)
# Arguments: text...
# Outputs: the text as ERROR
#######################################
config_problem() {
  CONFIG_PROBLEMS=$((${CONFIG_PROBLEMS:-0} + 1))
  log_error "${CONFIG_FILE:-cluster.env}: $*"
}

#######################################
# Globals: none
# Arguments: value, smallest, largest
# Returns: 1 if the value is no whole number between them
#######################################
config_number() {
  [[ $1 =~ ^(0|[1-9][0-9]{0,8})$ ]] && (($1 >= $2 && $1 <= $3))
}

#######################################
# Globals: none
# Arguments: value
# Returns: 1 if it is no address/length whose address is the network's first
#######################################
config_cidr() {
  local number
  cidr_valid "$1" || return 1
  number=$(ip_to_int "${1%/*}")
  ((number % (1 << (32 - ${1#*/})) == 0))
}

#######################################
# Globals: none
# Arguments: value
# Returns: 1 if it is no host name and no IPv4 address; a name of digits only would be taken for an address
#######################################
config_host() {
  ip_valid "$1" || [[ ${#1} -le 253 && $1 =~ ^${CONFIG_HOST}$ && ! $1 =~ ^[0-9.]+$ ]]
}

#######################################
# Whether a value is of a kind.
# Globals: CONFIG_EXPECTED (set; what the kind is, in words)
# Arguments: kind, value
# Returns: 1 if not; exits 64 on an unknown kind
#######################################
config_is() {
  local kind=$1 value=$2
  case ${kind} in
    ip) CONFIG_EXPECTED='an IPv4 address such as 10.0.0.11' && ip_valid "${value}" ;;
    cidr) CONFIG_EXPECTED='an IPv4 network such as 10.244.0.0/16, whose address is its first one' && config_cidr "${value}" ;;
    host) CONFIG_EXPECTED='a host name in lower case or an IPv4 address' && config_host "${value}" ;;
    host_port)
      CONFIG_EXPECTED='HOST:PORT such as api.demo.cluster.local:6443'
      [[ ${value} == *:* ]] && config_host "${value%:*}" && config_number "${value##*:}" 1 65535
      ;;
    port) CONFIG_EXPECTED='a port from 1 to 65535' && config_number "${value}" 1 65535 ;;
    number) CONFIG_EXPECTED='a whole number' && config_number "${value}" 0 999999999 ;;
    yes_no) CONFIG_EXPECTED='yes or no' && [[ ${value} == yes || ${value} == no ]] ;;
    absolute_path) CONFIG_EXPECTED='an absolute path' && [[ ${value} == /* && ${value} != */ && /${value}/ != */../* ]] ;;
    one_of:*) CONFIG_EXPECTED="one of ${kind#*:}" && [[ ${value} != *,* && ,${kind#*:}, == *",${value},"* ]] ;;
    nodes) CONFIG_EXPECTED='NAME=IP=ROLE=ARCH of every node, with spaces between them' && [[ -n ${value// /} ]] ;;
    label) CONFIG_EXPECTED='a DNS label: lower case, digits and -, at most 63' && [[ ${value} =~ ^${CONFIG_LABEL}$ ]] ;;
    interface) CONFIG_EXPECTED='the name of a network interface' && [[ ${value} =~ ^[A-Za-z0-9][A-Za-z0-9._@-]{0,14}$ ]] ;;
    version) CONFIG_EXPECTED='a version such as v1.20.2' && [[ ${value} =~ ^v[0-9]+\.[0-9]+\.[0-9]+$ ]] ;;
    image) CONFIG_EXPECTED='REGISTRY/PATH@sha256:DIGEST with all 64 digits' && [[ ${value} =~ ^${CONFIG_REGISTRY}${CONFIG_PATH}+(:[A-Za-z0-9_][A-Za-z0-9._-]*)?@sha256:[0-9a-f]{64}$ ]] ;;
    mirror) CONFIG_EXPECTED='HOST[:PORT][/PATH]' && [[ ${value} =~ ^${CONFIG_REGISTRY}${CONFIG_PATH}*$ ]] ;;
    registry) CONFIG_EXPECTED='HOST[:PORT]' && config_host "${value%:*}" && { [[ ${value} != *:* ]] || config_number "${value##*:}" 1 65535; } ;;
    repository) CONFIG_EXPECTED='HOST[:PORT]/PATH in lower case, without a tag' && [[ ${value} == */* && ${value} =~ ^${CONFIG_REGISTRY}${CONFIG_PATH}+$ ]] ;;
    *) die 64 "config_check: '${kind}' is no kind" ;;
  esac
}

#######################################
# Checks that keys are of a kind, and tells each that is not.
# Globals: the keys, CONFIG_PROBLEMS (added to)
# Arguments: kind, key...
# Outputs: a line for each, with what is expected
# Returns: 1 if one is not
#######################################
config_check() {
  local kind=$1 key value wrong=0 CONFIG_EXPECTED=''
  shift
  for key in "$@"; do
    value=${!key-}
    ! config_is "${kind}" "${value}" || [[ ${kind} == nodes ]] || continue
    if [[ -z ${value} ]]; then
      config_problem "${key} is missing; expected is ${CONFIG_EXPECTED}"
    elif [[ ${kind} != nodes ]]; then
      config_problem "${key} is malformed; expected is ${CONFIG_EXPECTED}"
    elif config_nodes "${key}" "${value}"; then
      continue
    fi
    wrong=1
  done
  return "${wrong}"
}

#######################################
# Checks keys that may be empty.
# Globals: as config_check
# Arguments: kind, key...
# Returns: as config_check
#######################################
config_check_set() {
  local kind=$1 key wrong=0
  shift
  for key in "$@"; do
    [[ -z ${!key-} ]] || config_check "${kind}" "${key}" || wrong=1
  done
  return "${wrong}"
}

#######################################
# Checks the list of nodes, entry by entry: well-formed, no name and no address twice, one first master, and that first.
# Globals: CONFIG_PROBLEMS (added to)
# Arguments: key, value
# Outputs: a line for each problem
# Returns: 1 if there is one
#######################################
config_nodes() {
  local key=$1 entries entry name ip role arch rest number=0 names=' ' ips=' ' before=${CONFIG_PROBLEMS:-0}
  read -r -a entries <<<"$2"
  for entry in "${entries[@]}"; do
    number=$((number + 1))
    IFS='=' read -r name ip role arch rest <<<"${entry}"
    if [[ -n ${rest} || -z ${arch} ]]; then
      config_problem "${key}, entry ${number}: expected is NAME=IP=ROLE=ARCH"
      continue
    fi
    if ! config_host "${name}" || ip_valid "${name}"; then config_problem "${key}, entry ${number}: the name must be a host name in lower case"; fi
    ip_valid "${ip}" || config_problem "${key}, entry ${number}: the address must be an IPv4 address"
    [[ ${role} =~ ^(first-master|master|worker)$ ]] || config_problem "${key}, entry ${number}: the role must be first-master, master or worker"
    [[ ${arch} =~ ^(amd64|arm64)$ ]] || config_problem "${key}, entry ${number}: the architecture must be amd64 or arm64"
    [[ ${names} != *" ${name} "* ]] || config_problem "${key}, entry ${number}: another node has its name"
    [[ ${ips} != *" ${ip} "* ]] || config_problem "${key}, entry ${number}: another node has its address"
    if ((number == 1)) && [[ ${role} != first-master ]]; then config_problem "${key}: the first entry must be the first-master"; fi
    if ((number > 1)) && [[ ${role} == first-master ]]; then config_problem "${key}, entry ${number}: only the first entry may be a first-master"; fi
    names+="${name} " ips+="${ip} "
  done
  ((${CONFIG_PROBLEMS:-0} == before))
}

#######################################
# Checks every key, and how they fit together.
# Globals: every key (defaults set), CONFIG_PROBLEMS (set)
# Arguments: none
# Outputs: a line for every problem
# Returns: exits 78 if there is one
#######################################
config_validate() {
  local sound=yes
  CONFIG_PROBLEMS=0
  config_optional CLUSTER_DNS_DOMAIN cluster.local
  config_optional CLUSTER_KEEP_RELEASES 3
  config_keys || sound=no
  config_files
  # Between malformed values, no relation can be told: these are corrected first.
  if [[ ${sound} == yes ]]; then
    config_this_node
    config_endpoint
    config_networks
  fi
  ((CONFIG_PROBLEMS == 0)) || die 78 "${CONFIG_FILE:-cluster.env} has ${CONFIG_PROBLEMS} problems (listed above); correct cluster.yaml, and render the seed again"
}

#######################################
# Checks each key by itself.
# Globals: every key, CONFIG_PROBLEMS (added to)
# Arguments: none
# Returns: 1 if one is wrong
#######################################
config_keys() {
  config_check image INSTALLER_IMAGE || :
  config_check one_of:first-master,master,worker ROLE || :
  config_check_set mirror REGISTRY_MIRROR || :
  config_check_set absolute_path REGISTRY_CA REGISTRY_AUTH_FILE || :
  config_check label CLUSTER_NAME || :
  config_check host CLUSTER_NODE_NAME CLUSTER_DNS_DOMAIN || :
  config_check ip CLUSTER_NODE_IP || :
  config_check nodes CLUSTER_NODES || :
  config_check host_port CLUSTER_ENDPOINT || :
  config_check_set ip CLUSTER_ENDPOINT_IP CLUSTER_REGISTRY_IP CLUSTER_VIP || :
  config_check one_of:none,external,nginx,vip CLUSTER_LB || :
  config_check_set interface CLUSTER_VIP_INTERFACE || :
  config_check cidr CLUSTER_POD_CIDR CLUSTER_SERVICE_CIDR || :
  config_check one_of:bridge,none CLUSTER_CNI || :
  config_check version CLUSTER_KUBERNETES_VERSION || :
  config_check registry CLUSTER_REGISTRY || :
  config_check repository CLUSTER_IMAGE_REPOSITORY || :
  config_check yes_no CLUSTER_COREDNS CLUSTER_KUBE_PROXY || :
  config_check absolute_path CLUSTER_JOIN_SECRET_FILE || :
  config_number "${CLUSTER_KEEP_RELEASES}" 1 1000 || config_problem "CLUSTER_KEEP_RELEASES is malformed; expected is a whole number from 1 to 1000"
  ((CONFIG_PROBLEMS == 0))
}

#######################################
# Checks the files that keys name.
# Globals: REGISTRY_CA REGISTRY_AUTH_FILE CLUSTER_JOIN_SECRET_FILE CONFIG_PROBLEMS (added to)
# Arguments: none
#######################################
config_files() {
  local key mode secret=''
  for key in REGISTRY_CA REGISTRY_AUTH_FILE CLUSTER_JOIN_SECRET_FILE; do
    [[ -z ${!key} || (-f ${!key} && -r ${!key}) ]] || config_problem "${key} must name a readable file"
  done
  if [[ -f ${REGISTRY_CA} && -r ${REGISTRY_CA} ]] && ! grep -q -- '-----BEGIN CERTIFICATE-----' "${REGISTRY_CA}"; then
    config_problem "the file that REGISTRY_CA names holds no PEM certificate"
  fi
  [[ -f ${CLUSTER_JOIN_SECRET_FILE} && -r ${CLUSTER_JOIN_SECRET_FILE} ]] || return 0
  mode=$(stat -L -c %a -- "${CLUSTER_JOIN_SECRET_FILE}")
  (((8#${mode} & 8#077) == 0)) || config_problem "the file that CLUSTER_JOIN_SECRET_FILE names is open to others than its owner; chmod 0600 it"
  IFS= read -r secret <"${CLUSTER_JOIN_SECRET_FILE}" || :
  [[ ${secret} =~ ^[0-9a-f]{64}$ ]] || config_problem "the file that CLUSTER_JOIN_SECRET_FILE names must hold 64 hex digits in lower case"
}

#######################################
# This node is one of the nodes, with the same address and role.
# Globals: CLUSTER_NODE_NAME CLUSTER_NODE_IP CLUSTER_NODES ROLE CONFIG_PROBLEMS (added to)
# Arguments: none
#######################################
config_this_node() {
  local entries entry name ip role
  read -r -a entries <<<"${CLUSTER_NODES}"
  for entry in "${entries[@]}"; do
    IFS='=' read -r name ip role _ <<<"${entry}"
    [[ ${name} == "${CLUSTER_NODE_NAME}" ]] || continue
    [[ ${ip} == "${CLUSTER_NODE_IP}" ]] || config_problem "CLUSTER_NODE_IP is not the address that CLUSTER_NODES has for this node"
    [[ ${role} == "${ROLE}" ]] || config_problem "ROLE is not the role that CLUSTER_NODES has for this node"
    return 0
  done
  config_problem "CLUSTER_NODE_NAME is none of CLUSTER_NODES"
}

#######################################
# The endpoint fits what stands in front of the API. API servers listen on port 6443 of every address of a master.
# Globals: CLUSTER_LB CLUSTER_VIP CLUSTER_VIP_INTERFACE CLUSTER_ENDPOINT CLUSTER_ENDPOINT_IP CLUSTER_NODES CONFIG_PROBLEMS (added to)
# Arguments: none
#######################################
config_endpoint() {
  local first=${CLUSTER_NODES#*=} port=${CLUSTER_ENDPOINT##*:}
  first=${first%%=*}
  if [[ ${CLUSTER_LB} != vip && -n ${CLUSTER_VIP}${CLUSTER_VIP_INTERFACE} ]]; then config_problem "CLUSTER_VIP and CLUSTER_VIP_INTERFACE are for CLUSTER_LB=vip only"; fi
  case ${CLUSTER_LB} in
    none)
      ((port == 6443)) || config_problem "the port of CLUSTER_ENDPOINT must be 6443 with CLUSTER_LB=none"
      [[ -z ${CLUSTER_ENDPOINT_IP} || ${CLUSTER_ENDPOINT_IP} == "${first}" ]] || config_problem "CLUSTER_ENDPOINT_IP must be the first master's address, or empty, with CLUSTER_LB=none"
      ;;
    nginx)
      ((port != 6443)) || config_problem "the port of CLUSTER_ENDPOINT must not be 6443 with CLUSTER_LB=nginx: on a master, the API server has it"
      [[ ${CLUSTER_ENDPOINT_IP} == 127.0.0.1 ]] || config_problem "CLUSTER_ENDPOINT_IP must be 127.0.0.1 with CLUSTER_LB=nginx"
      ;;
    vip)
      ((port == 6443)) || config_problem "the port of CLUSTER_ENDPOINT must be 6443 with CLUSTER_LB=vip"
      [[ -n ${CLUSTER_VIP} ]] || config_problem "CLUSTER_VIP is missing; expected is an IPv4 address with CLUSTER_LB=vip"
      [[ ${CLUSTER_ENDPOINT_IP} == "${CLUSTER_VIP}" ]] || config_problem "CLUSTER_ENDPOINT_IP must be the same as CLUSTER_VIP"
      [[ -z ${CLUSTER_VIP} || ${CLUSTER_NODES} != *"=${CLUSTER_VIP}="* ]] || config_problem "CLUSTER_VIP is a node's own address"
      ;;
    *) ;;
  esac
}

#######################################
# Networks overlap neither each other nor the nodes, and there are enough addresses for pods.
# Globals: CLUSTER_POD_CIDR CLUSTER_SERVICE_CIDR CLUSTER_NODES CLUSTER_CNI CLUSTER_VIP CONFIG_PROBLEMS (added to)
# Arguments: none
#######################################
config_networks() {
  local key entries entry ip length=${CLUSTER_POD_CIDR#*/}
  read -r -a entries <<<"${CLUSTER_NODES}"
  if cidr_overlap "${CLUSTER_POD_CIDR}" "${CLUSTER_SERVICE_CIDR}"; then config_problem "CLUSTER_POD_CIDR and CLUSTER_SERVICE_CIDR overlap"; fi
  for key in CLUSTER_POD_CIDR CLUSTER_SERVICE_CIDR; do
    for entry in "${entries[@]}"; do
      ip=${entry#*=}
      if cidr_contains "${!key}" "${ip%%=*}"; then config_problem "${key} contains the address of the node ${entry%%=*}"; fi
    done
    if [[ -n ${CLUSTER_VIP} ]] && cidr_contains "${!key}" "${CLUSTER_VIP}"; then config_problem "${key} contains CLUSTER_VIP"; fi
  done
  if [[ ${CLUSTER_CNI} == bridge ]] && ((length > 24 || ${#entries[@]} > 1 << (24 - length))); then
    config_problem "CLUSTER_POD_CIDR is too small: each of the ${#entries[@]} nodes gets a /24 of it"
  fi
  ((${CLUSTER_SERVICE_CIDR#*/} >= 12 && ${CLUSTER_SERVICE_CIDR#*/} <= 28)) || config_problem "CLUSTER_SERVICE_CIDR must be between /12 and /28"
}
