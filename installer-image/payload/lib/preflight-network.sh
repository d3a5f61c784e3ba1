#!/bin/bash
# Preflight checks of names, addresses and ports. Each prints its findings; see preflight.sh.

#######################################
# Arguments: host name
# Outputs: its IPv4 addresses, one a line; nothing if it has none or the name server does not answer
#######################################
addresses_of() {
  timeout 2 getent ahostsv4 "$1" 2>/dev/null | awk '!seen[$1]++ { print $1 }' || true
}

#######################################
# Arguments: list of addresses as `ip -4 -o addr` prints it
# Outputs: this machine's IPv4 addresses, one a line
#######################################
own_addresses() {
  if (($#)); then cat -- "$1"; else ip -4 -o addr show; fi | awk '{ sub("/.*", "", $4); print $4 }'
}

#######################################
# Arguments: host, port
# Returns: 0 if a TCP connection is made within a second
#######################################
tcp_answers() {
  # shellcheck disable=SC2016 # expanded by the inner bash, where the values are data
  timeout 1 bash -c 'exec 3<>"/dev/tcp/$1/$2"' bash "$1" "$2" 2>/dev/null
}

#######################################
# Arguments: address
# Returns: 0 if a machine has it and answers; one that refuses a connection answers, too
#######################################
host_answers() {
  local answer
  if command -v ping >/dev/null && ping -n -q -c 1 -W 1 "$1" >/dev/null 2>&1; then return 0; fi
  # shellcheck disable=SC2016 # expanded by the inner bash, where the value is data
  answer=$(timeout 1 bash -c 'exec 3<>"/dev/tcp/$1/10250" && echo answered' bash "$1" 2>&1 || true)
  [[ ${answer} == answered || ${answer} == *refused* ]]
}

#######################################
# The host name is this node's own, here and in the name service.
# Globals: CLUSTER_NODE_NAME CLUSTER_NODE_IP CLUSTER_NODES
# Arguments: role, host name, list of addresses as `ip -4 -o addr` prints it
# Outputs: findings
#######################################
check_host_name() {
  local name=${CLUSTER_NODE_NAME-} here=${2:-$(uname -n)} entries address own
  [[ ${here} == "${name}" ]] ||
    found ERROR "the host name is '${here}', CLUSTER_NODE_NAME is '${name}'; run hostnamectl set-hostname ${name}"
  entries=$(own_entries | wc -l)
  case ${entries} in
    1) ;;
    0) found CONFIG "CLUSTER_NODES does not name ${name}; add the node to cluster.yaml and render again" ;;
    *) found CONFIG "CLUSTER_NODES names ${name} ${entries} times; every node needs a name of its own" ;;
  esac
  own=" $(own_addresses "${@:3}" | tr '\n' ' ') 127.0.0.1 127.0.1.1 ${CLUSTER_NODE_IP-} "
  while read -r address; do
    [[ -n ${address} && ${own} != *" ${address} "* ]] || continue
    if host_answers "${address}"; then
      found ERROR "the name ${name} belongs to ${address}, another machine that answers; give this node another name, or correct the name service or /etc/hosts"
    else
      found WARN "the name ${name} resolves to ${address}, which is not this node's; correct the name service or /etc/hosts"
    fi
    break # one is enough, and each may take seconds
  done < <(addresses_of "${name}")
}

#######################################
# Globals: CLUSTER_NODE_IP CLUSTER_NODES CLUSTER_NODE_NAME
# Arguments: role, list of addresses as `ip -4 -o addr` prints it
# Outputs: findings
#######################################
check_node_address() {
  local own entry address
  own=$(own_addresses "${@:2}")
  grep -qxF -- "${CLUSTER_NODE_IP-}" <<<"${own}" ||
    found CONFIG "no interface has CLUSTER_NODE_IP ${CLUSTER_NODE_IP-(not set)}, this node has $(tr '\n' ' ' <<<"${own}"); correct the address in cluster.yaml or the interface"
  while IFS= read -r entry; do
    address=${entry#*=} address=${address%%=*}
    [[ ${address} == "${CLUSTER_NODE_IP-}" ]] ||
      found CONFIG "CLUSTER_NODES says ${CLUSTER_NODE_NAME} is ${address}, CLUSTER_NODE_IP is ${CLUSTER_NODE_IP-(not set)}; render cluster.yaml again"
  done < <(own_entries)
}

#######################################
# Prints the routes that may collide with the cluster's networks. Those of the cluster itself (an earlier run) are left out.
# Inputs: `ip -4 route` on stdin
# Outputs: "connected" or "static", destination, interface; one a line
#######################################
foreign_routes() {
  awk '
    /^(unreachable|blackhole|prohibit|throw|broadcast|local|multicast) / { $1 = ""; $0 = $0 }
    $1 == "default" { next }
    / proto (98|bird|12|kernel_cni)( |$)/ { next }
    {
      device = ""; kind = "connected"
      for (i = 2; i < NF; i++) { if ($i == "dev") device = $(i + 1); if ($i == "via") kind = "static" }
      if (device ~ /^(cni|kube-|flannel|cali|cilium|lxc|tunl|vxlan\.calico|nodelocaldns)/) next
      print kind, ($1 ~ /\// ? $1 : $1 "/32"), (device == "" ? "-" : device)
    }'
}

#######################################
# The pods' and the services' networks overlap neither each other, nor a node, nor what this machine is connected to.
# Globals: CLUSTER_POD_CIDR CLUSTER_SERVICE_CIDR CLUSTER_NODES CLUSTER_REGISTRY_IP CLUSTER_ENDPOINT_IP CLUSTER_VIP
# Arguments: role, list of routes as `ip -4 route` prints it
# Outputs: findings
#######################################
check_addresses() {
  local pods=${CLUSTER_POD_CIDR-} services=${CLUSTER_SERVICE_CIDR-} key cidr
  local advice="choose another network in cluster.yaml"
  if [[ -z ${pods} || -z ${services} ]]; then
    found CONFIG "CLUSTER_POD_CIDR and CLUSTER_SERVICE_CIDR must be set; render cluster.yaml again"
    return 0
  fi
  ! cidr_overlap "${pods}" "${services}" || found CONFIG "CLUSTER_POD_CIDR ${pods} and CLUSTER_SERVICE_CIDR ${services} overlap; ${advice}"
  for key in CLUSTER_POD_CIDR CLUSTER_SERVICE_CIDR; do
    cidr=${!key}
    addresses_inside "${key}" "${cidr}" "${advice}"
    if (($# > 1)); then routes_inside "${key}" "${cidr}" "${advice}" <"$2"; else ip -4 route | routes_inside "${key}" "${cidr}" "${advice}"; fi
  done
}

#######################################
# Globals: CLUSTER_NODES CLUSTER_REGISTRY_IP CLUSTER_ENDPOINT_IP CLUSTER_VIP
# Arguments: key, its network, advice
# Outputs: a finding for every address of a machine that lies inside
#######################################
addresses_inside() {
  local entry entries address
  read -r -a entries <<<"${CLUSTER_NODES-}"
  for entry in ${entries[@]+"${entries[@]}"} "registry=${CLUSTER_REGISTRY_IP-}" "endpoint=${CLUSTER_ENDPOINT_IP-}" "VIP=${CLUSTER_VIP-}"; do
    address=${entry#*=} address=${address%%=*}
    [[ -n ${address} ]] || continue
    ! cidr_contains "$2" "${address}" || found CONFIG "$1 $2 contains ${address} of ${entry%%=*}; $3"
  done
}

#######################################
# Arguments: key, its network, advice
# Inputs: `ip -4 route` on stdin
# Outputs: a finding for every route that overlaps
#######################################
routes_inside() {
  local kind cidr device
  while read -r kind cidr device; do
    cidr_overlap "$2" "${cidr}" || continue
    if [[ ${kind} == connected ]]; then
      found CONFIG "$1 $2 overlaps ${cidr}, which this node is connected to by ${device}; $3"
    else
      found WARN "$1 $2 overlaps the route to ${cidr} by ${device}, so pods and that network may not reach each other; $3"
    fi
  done < <(foreign_routes)
}

#######################################
# Tells processes of an earlier run from those of others: kubelet runs from our directory, static pods below a shim of ours, nginx with our file.
# Arguments: process id
# Returns: 0 if it is ours
#######################################
own_process() {
  local executable parent
  executable=$(readlink "/proc/$1/exe" || true)
  [[ ${executable} != /opt/cluster-installer/* ]] || return 0
  ! tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -q '/etc/cluster-installer/' || return 0
  ! grep -qsE 'kubepods|/(kubelet|cluster-lb)\.service' "/proc/$1/cgroup" || return 0
  parent=$(awk '$1 == "PPid:" { print $2 }' "/proc/$1/status" 2>/dev/null || true)
  tr '\0' ' ' 2>/dev/null <"/proc/${parent:-0}/cmdline" | grep -qE 'containerd-shim.* -namespace k8s\.io '
}

#######################################
# Arguments: role
# Globals: CLUSTER_LB CLUSTER_ENDPOINT
# Outputs: the TCP ports that the role listens on
#######################################
role_ports() {
  if [[ $(role_kind "$1") == worker ]]; then echo 10250; else printf '%s\n' 6443 2379 2380 10250 10257 10259; fi
  [[ ${CLUSTER_LB-} != nginx ]] || printf '%s\n' "${CLUSTER_ENDPOINT##*:}"
}

#######################################
# Arguments: role, ports to look at instead of the role's...
# Outputs: findings
#######################################
check_ports() {
  local port listeners pid pids name mine
  if ! command -v ss >/dev/null; then return 0; fi # check_commands says so
  local ports=("${@:2}")
  ((${#ports[@]})) || mapfile -t ports < <(role_ports "$1" | sort -un)
  for port in "${ports[@]}"; do
    listeners=$(ss -Hltnp "sport = :${port}")
    [[ -n ${listeners} ]] || continue
    mine=no name=
    mapfile -t pids < <(grep -oE 'pid=[0-9]+' <<<"${listeners}" | cut -d= -f2 | sort -u)
    for pid in ${pids[@]+"${pids[@]}"}; do
      ! own_process "${pid}" || mine=yes
      name+="${name:+, }$(cat "/proc/${pid}/comm" 2>/dev/null || echo gone) (pid ${pid})"
    done
    [[ ${mine} == yes ]] ||
      found ERROR "TCP port ${port} is taken by ${name:-a process that cannot be seen from here}; stop it, or run 'cluster-installer reset' if an earlier cluster left it"
  done
}

#######################################
# What CLUSTER_LB needs on this node.
# Globals: CLUSTER_LB CLUSTER_VIP_INTERFACE
# Arguments: role
# Outputs: findings
#######################################
check_balancer() {
  case ${CLUSTER_LB-} in
    nginx)
      if ! command -v nginx >/dev/null; then
        found ERROR "CLUSTER_LB is nginx, which is not installed; install nginx and its stream module"
      elif ! nginx_has_stream; then
        found ERROR "nginx has no stream module; install it (nginx-mod-stream, libnginx-mod-stream)"
      fi
      ;;
    vip)
      [[ $(role_kind "$1") == master ]] || return 0
      command -v keepalived >/dev/null || found ERROR "CLUSTER_LB is vip, and keepalived is not installed; install it"
      [[ -z ${CLUSTER_VIP_INTERFACE-} ]] || ip link show dev "${CLUSTER_VIP_INTERFACE}" >/dev/null 2>&1 ||
        found CONFIG "CLUSTER_VIP_INTERFACE ${CLUSTER_VIP_INTERFACE} does not exist; correct it, or leave it empty for the node address's own"
      ;;
    *) ;;
  esac
}

#######################################
# Returns: 0 if nginx has its stream module, built in or as a file that it can load
#######################################
nginx_has_stream() {
  local words directory
  words=$(nginx -V 2>&1 || true)
  [[ ! ${words} =~ --with-stream([[:space:]]|$) ]] || return 0
  [[ ${words} =~ --modules-path=([^[:space:]]+) ]] && directory=${BASH_REMATCH[1]}
  for directory in "${directory:-/usr/lib/nginx/modules}" /usr/lib/nginx/modules /usr/lib64/nginx/modules /usr/share/nginx/modules; do
    [[ ! -e ${directory}/ngx_stream_module.so ]] || return 0
  done
  return 1
}

#######################################
# The API's host name can be resolved. To a joiner the API should answer, but the first master may still be on its way.
# Globals: CLUSTER_ENDPOINT CLUSTER_ENDPOINT_IP CLUSTER_LB
# Arguments: role
# Outputs: findings
#######################################
check_endpoint() {
  local host=${CLUSTER_ENDPOINT%:*} port=${CLUSTER_ENDPOINT##*:} address=${CLUSTER_ENDPOINT_IP-}
  if [[ -z ${address} ]]; then
    address=$(addresses_of "${host}")
    address=${address%%$'\n'*}
    if [[ -z ${address} ]]; then
      found ERROR "the API's name ${host} does not resolve; add it to the name service, or set its address in cluster.yaml"
      return 0
    fi
  fi
  [[ $1 != first-master ]] || return 0
  if [[ ${CLUSTER_LB-} == nginx ]]; then # nothing listens on the loopback yet
    address=$(first_master_address)
    port=6443
  fi
  tcp_answers "${address:-${host}}" "${port}" ||
    found WARN "the API at ${address:-${host}}:${port} does not answer yet; the join waits for it, so see to the first master"
}

#######################################
# Globals: CLUSTER_NODES
# Outputs: the first master's address
#######################################
first_master_address() {
  local entry entries
  read -r -a entries <<<"${CLUSTER_NODES-}"
  for entry in ${entries[@]+"${entries[@]}"}; do
    [[ ${entry} == *=first-master=* ]] || continue
    entry=${entry#*=}
    printf '%s\n' "${entry%%=*}"
    return 0
  done
}
