# shellcheck shell=bash
# Addresses and ports. IPv4.

#######################################
# Globals: none
# Arguments: address
# Returns: 1 if it is no address: four numbers of 0 to 255 without leading zeros
#######################################
ip_valid() {
  local byte='(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
  [[ ${1-} =~ ^${byte}\.${byte}\.${byte}\.${byte}$ ]]
}

#######################################
# Globals: none
# Arguments: CIDR
# Returns: 1 if it is no address/length
#######################################
cidr_valid() {
  [[ ${1-} =~ ^[^/]+/(3[0-2]|[12]?[0-9])$ ]] && ip_valid "${1%/*}"
}

#######################################
# Globals: none
# Arguments: address
# Outputs: it as a number
# Returns: 1 if it is no address
#######################################
ip_to_int() {
  local a b c d
  ip_valid "${1-}" || {
    log_error "ip_to_int: '${1-}' is no IPv4 address"
    return 1
  }
  IFS=. read -r a b c d <<<"$1"
  printf '%s\n' $(((a << 24) + (b << 16) + (c << 8) + d))
}

#######################################
# Globals: CIDR_FIRST CIDR_LAST (set; its first and its last address as numbers)
# Arguments: CIDR
# Returns: 2 if it is none
#######################################
cidr_range() {
  local number size
  cidr_valid "${1-}" || {
    log_error "'${1-}' is no IPv4 network such as 10.0.0.0/16"
    return 2
  }
  number=$(ip_to_int "${1%/*}")
  size=$((1 << (32 - ${1#*/})))
  CIDR_FIRST=$((number - number % size))
  CIDR_LAST=$((CIDR_FIRST + size - 1))
}

#######################################
# Globals: none
# Arguments: CIDR, address
# Returns: 0 if the address is in it, 1 if not, 2 if one of them is malformed
#######################################
cidr_contains() {
  local CIDR_FIRST CIDR_LAST number
  cidr_range "${1-}" || return 2
  number=$(ip_to_int "${2-}") || return 2
  ((number >= CIDR_FIRST && number <= CIDR_LAST))
}

#######################################
# Globals: none
# Arguments: CIDR, CIDR
# Returns: 0 if they share an address, 1 if not, 2 if one of them is malformed
#######################################
cidr_overlap() {
  local CIDR_FIRST CIDR_LAST first last
  cidr_range "${1-}" || return 2
  first=${CIDR_FIRST} last=${CIDR_LAST}
  cidr_range "${2-}" || return 2
  ((first <= CIDR_LAST && CIDR_FIRST <= last))
}

#######################################
# Globals: none
# Arguments: TCP port
# Returns: 0 if something listens on it, 1 if not, 2 if that cannot be told
#######################################
port_in_use() {
  local sockets
  if [[ ! ${1-} =~ ^[1-9][0-9]{0,4}$ ]] || (($1 > 65535)); then
    log_error "port_in_use: '${1-}' is no port"
    return 2
  fi
  sockets=$(ss -ltn) || {
    log_error "port_in_use: ss of iproute2 does not run"
    return 2
  }
  awk -v port="$1" 'NR > 1 { n = split($4, part, ":"); if (part[n] == port) found = 1 } END { exit !found }' <<<"${sockets}"
}

#######################################
# Globals: none
# Arguments: address of this machine
# Outputs: the interface that has it
# Returns: 1 if none has, or it is no address
#######################################
default_interface_of() {
  local addresses
  ip_valid "${1-}" || {
    log_error "default_interface_of: '${1-}' is no IPv4 address"
    return 1
  }
  addresses=$(ip -o -4 addr show) || return 1
  awk -v address="$1" '{ split($4, part, "/"); if (part[1] == address && !found) { sub(/@.*/, "", $2); print $2; found = 1 } } END { exit !found }' <<<"${addresses}" || {
    log_error "no interface of this machine has the address $1"
    return 1
  }
}
