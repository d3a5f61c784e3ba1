#!/bin/bash
# Preflight checks that speak HTTPS: registry, mirror and clocks. Each prints its findings; see preflight.sh.
# Credentials go to curl on its stdin, never on a command line, and to the log never.

PREFLIGHT_SKEW=60 # seconds; certificates made by the first master are valid from their making

#######################################
# Prints the credentials that a config.json (docker) or auth.json (podman) has for a registry.
# Arguments: file, host[:port]
# Outputs: user:password in base64; nothing if it has none
#######################################
registry_credentials() {
  local token last='' before='' depth=0 key exact='' entry='' user='' secret='' keys=()
  while IFS= read -r token; do
    case ${token} in
      '{' | '[') depth=$((depth + 1)) keys[depth]='' ;;
      '}' | ']') depth=$((depth - 1)) ;;
      ':') keys[depth]=${last} ;;
      \"*)
        token=${token:1:-1}
        token=${token//\\\\/\\x5c} token=${token//\\\"/\"}
        printf -v last '%b' "${token//\\\//\/}" # the other escapes of JSON are among those of %b
        if [[ ${before} == ':' && ${depth} -eq 3 && ${keys[1]} == auths ]]; then
          key=${keys[2]#*://}
          if [[ ${key%%/*} == "$2" && (-z ${exact} || ${key} == "${exact}" || ${key} == "$2") ]]; then
            [[ ${key} == "${exact}" ]] || { entry='' user='' secret=''; }
            exact=${key}
            case ${keys[3]} in
              auth) entry=${last} ;;
              username) user=${last} ;;
              password) secret=${last} ;;
              *) ;;
            esac
          fi
        fi
        ;;
      *) ;;
    esac
    before=${token:0:1}
  done < <(tr -d '\n\r' <"$1" | grep -oE '"([^"\\]|\\.)*"|[][{}:,]' || true)
  if [[ ${entry} =~ ^[A-Za-z0-9+/=_-]+$ ]]; then
    printf '%s\n' "${entry}"
  elif [[ -n ${user} && -n ${secret} ]]; then
    printf '%s:%s' "${user}" "${secret}" | base64 | tr -d '\n'
    echo
  fi
}

#######################################
# Asks a registry, or its token server, and prints its answer's headers.
# Arguments: seconds, CA file or nothing, credentials in base64 or nothing, URL, further options of curl...
# Outputs: headers without CR; on failure curl's message
# Returns: curl's exit code
#######################################
registry_get() {
  local seconds=$1 options=() status=0 answer
  [[ -z $2 ]] || options+=(--cacert "$2")
  answer=$(if [[ -n $3 ]]; then printf 'header = "Authorization: Basic %s"\n' "$3"; fi |
    curl --config - --silent --show-error --connect-timeout 2 --max-time "${seconds}" --output /dev/null --dump-header - \
      ${options[@]+"${options[@]}"} "${@:5}" "$4" 2>&1) || status=$?
  printf '%s\n' "${answer//$'\r'/}"
  return "${status}"
}

#######################################
# Arguments: header's name in lower case
# Inputs: headers on stdin
# Outputs: its value
#######################################
header_value() {
  awk -v name="$1:" 'tolower($1) == name { sub("^[^:]*: *", ""); print; exit }'
}

#######################################
# Prints curl's option that names the registry's address, since /etc/hosts may not have it yet.
# Globals: CLUSTER_REGISTRY CLUSTER_REGISTRY_IP
# Outputs: --resolve and its value, a line each; nothing if the name service knows the registry
#######################################
registry_resolve() {
  local port=443
  [[ -n ${CLUSTER_REGISTRY_IP-} ]] || return 0
  [[ ${CLUSTER_REGISTRY} != *:* ]] || port=${CLUSTER_REGISTRY##*:}
  printf '%s\n' --resolve "${CLUSTER_REGISTRY%:*}:${port}:${CLUSTER_REGISTRY_IP}"
}

#######################################
# Says what a failure of curl means.
# Arguments: WARN or ERROR, what did not answer, curl's exit code, its message, CA file
# Outputs: a finding
#######################################
registry_failure() {
  local advice
  case $3 in
    6) advice="its name does not resolve: correct the name service, or set registry.ip in cluster.yaml" ;;
    7) advice="nothing listens there: start the registry, or correct its address and port" ;;
    28) advice="no answer in time: see to the registry, the route to it and firewalls" ;;
    35) advice="no TLS there: the registry must speak HTTPS" ;;
    51) advice="its certificate is for another name: correct the name, or the certificate" ;;
    58 | 77) advice="REGISTRY_CA ${5:-} cannot be read: put the CA's PEM file there" ;;
    60 | 83) advice="its certificate is not signed by ${5:-a CA of this system}, names another host, or is not valid by this node's clock: correct REGISTRY_CA, the certificate or the clock" ;;
    *) advice="see to the registry" ;;
  esac
  found "$1" "$2 cannot be used; ${advice} ($(grep -E '^curl: ' <<<"$4" | tail -n 1))"
}

#######################################
# The site's registry answers with the configured CA and lets this node in.
# Globals: CLUSTER_REGISTRY CLUSTER_REGISTRY_IP REGISTRY_CA REGISTRY_AUTH_FILE REGISTRY_MIRROR
# Arguments: role
# Outputs: findings
#######################################
check_registry() {
  local file=${REGISTRY_AUTH_FILE-} options=() mirror=${REGISTRY_MIRROR-} child
  if [[ -z ${CLUSTER_REGISTRY-} ]]; then
    found CONFIG "CLUSTER_REGISTRY is not set; render cluster.yaml again"
    return 0
  fi
  if [[ -n ${file} && ! (-f ${file} && -r ${file}) ]] || [[ -n ${file} ]] && ! grep -qs '{' "${file}"; then
    found CONFIG "REGISTRY_AUTH_FILE ${file} is no readable config.json; put docker's config.json or podman's auth.json there"
    file=
  fi
  mapfile -t options < <(registry_resolve)
  registry_usable ERROR "the registry ${CLUSTER_REGISTRY}" "${CLUSTER_REGISTRY}" "${file}" ${options[@]+"${options[@]}"} &
  child=$!
  if [[ -n ${mirror} ]]; then # the registry stands in for it
    registry_usable WARN "the mirror ${mirror}" "${mirror%%/*}" "${file}"
  fi
  wait "${child}"
}

#######################################
# Arguments: WARN or ERROR, what it is called, host[:port], credentials' file or nothing, further options of curl...
# Globals: REGISTRY_CA
# Outputs: findings
#######################################
registry_usable() {
  local kind=$1 what=$2 host=$3 file=$4 ca=${REGISTRY_CA-} credentials='' answer status=0 code began=${SECONDS}
  if [[ -n ${file} ]]; then
    credentials=$(registry_credentials "${file}" "${host}")
    [[ -n ${credentials} ]] || found WARN "REGISTRY_AUTH_FILE ${file} has no login for ${host}; add it there if ${what} wants one"
  fi
  answer=$(registry_get 3 "${ca}" "${credentials}" "https://${host}/v2/" "${@:5}") || status=$?
  if ((status)); then
    registry_failure "${kind}" "${what}" "${status}" "${answer}" "${ca}"
    return 0
  fi
  code=$(awk '/^HTTP\// { code = $2 } END { print code }' <<<"${answer}")
  case ${code} in
    200) ;;
    401) registry_login "${kind}" "${what}" "${credentials}" "$((4 - (SECONDS - began)))" "${answer}" ;;
    404) found "${kind}" "${what} answers 404 to /v2/, so it is no container registry; correct its address and port" ;;
    429) found WARN "${what} answers 429, too many requests; it may be slow now" ;;
    *) found "${kind}" "${what} answers ${code:-nothing} to /v2/; see its log" ;;
  esac
}

#######################################
# Finds out whether the credentials are right, after a 401: a registry with a token server says so there only.
# Arguments: WARN or ERROR, what the registry is called, credentials or nothing, seconds left, headers of the 401
# Globals: REGISTRY_CA REGISTRY_AUTH_FILE
# Outputs: findings
#######################################
registry_login() {
  local challenge realm service='' answer status=0 code options=()
  challenge=$(header_value www-authenticate <<<"$5")
  local refused="$2 refuses the login of REGISTRY_AUTH_FILE ${REGISTRY_AUTH_FILE-} (401); correct user and password there"
  if [[ -z $3 ]]; then
    [[ ${challenge,,} == bearer* ]] || found WARN "$2 wants a login and there is none for it; set REGISTRY_AUTH_FILE, or pulling images fails"
    return 0
  elif [[ ! ${challenge} =~ ^[Bb]earer.*realm=\"([^\"]+)\" ]]; then
    found "$1" "${refused}"
    return 0
  fi
  realm=${BASH_REMATCH[1]}
  [[ ! ${challenge} =~ service=\"([^\"]+)\" ]] || service=${BASH_REMATCH[1]}
  if [[ ${realm} != https://* ]]; then
    found WARN "the token server of $2 is ${realm}, without TLS; the login was not tried"
    return 0
  fi
  mapfile -t options < <(registry_resolve) # it is often the registry's own host
  answer=$(registry_get "$(($4 > 1 ? $4 : 1))" "${REGISTRY_CA-}" "$3" "${realm}" \
    --get --data-urlencode "service=${service}" ${options[@]+"${options[@]}"}) || status=$?
  code=$(awk '/^HTTP\// { code = $2 } END { print code }' <<<"${answer}")
  if ((status)); then
    registry_failure "$1" "the token server ${realm} of $2" "${status}" "${answer}" "${REGISTRY_CA-}"
  elif [[ ${code} == 40[13] ]]; then
    found "$1" "${refused}"
  elif [[ ${code} != 200 ]]; then
    found WARN "the token server ${realm} of $2 answers ${code}; see its log"
  fi
}

#######################################
# This node's clock agrees with the registry's and, when joining, with the API's. Certificates are not verified here: only the time
# is read, and a clock that is off is a reason for certificates to be refused.
# Globals: CLUSTER_REGISTRY CLUSTER_ENDPOINT CLUSTER_ENDPOINT_IP CLUSTER_LB
# Arguments: role
# Outputs: findings
#######################################
check_time() {
  local options=() url address child
  [[ -n ${CLUSTER_REGISTRY-} ]] || return 0
  mapfile -t options < <(registry_resolve)
  clock_of "the registry ${CLUSTER_REGISTRY}" "https://${CLUSTER_REGISTRY}/v2/" ${options[@]+"${options[@]}"} &
  child=$!
  if [[ $1 != first-master ]]; then
    address=${CLUSTER_ENDPOINT_IP:-${CLUSTER_ENDPOINT%:*}}
    url=https://${address}:${CLUSTER_ENDPOINT##*:}/readyz
    [[ ${CLUSTER_LB-} != nginx ]] || url=https://$(first_master_address):6443/readyz
    clock_of "the API" "${url}"
  fi
  wait "${child}"
}

#######################################
# Arguments: whose clock, URL, further options of curl...
# Globals: PREFLIGHT_SKEW
# Outputs: a finding if the clocks differ; nothing if there is no answer, which is for other checks to say
#######################################
clock_of() {
  local answer there here skew
  answer=$(registry_get 3 '' '' "$2" --insecure --head "${@:3}") || return 0
  there=$(header_value date <<<"${answer}")
  there=$(date -u -d "${there:-no date}" +%s 2>/dev/null) || return 0
  here=$(date -u +%s)
  skew=$((here - there))
  ((${skew#-} <= PREFLIGHT_SKEW)) ||
    found ERROR "this node's clock says $(date -u -d "@${here}" +%Y-%m-%dT%H:%M:%SZ), $1 says $(date -u -d "@${there}" +%Y-%m-%dT%H:%M:%SZ), ${skew#-} s apart; start chronyd on both and wait until the clocks agree"
}
