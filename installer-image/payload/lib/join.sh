# shellcheck shell=bash
# How a further node gets the token, the certificate key and the CA's hash.
#
# A master makes token and key fresh, encrypts them with the cluster's join secret and puts the result into the ConfigMap kube-public/cluster-join,
# which anyone may read. A joiner reads it without credentials and without knowing the CA, and trusts it because its tag was made with
# the join secret, which only the seeds of this cluster's nodes hold. No node needs a login on another one.

JOIN_CONFIGMAP=cluster-join
JOIN_DEADLINE=3600 # seconds that a joiner waits for the first master
RUN_DIRECTORY=${RUN_DIRECTORY:-/run/cluster-installer}

#######################################
# Encrypts standard input with the join secret. The secret has 256 random bits, so no key stretching is needed, and this form
# is understood by the openssl 1.0.2 of CentOS 7, too. It is read from its file, never from a command line.
# Globals: CLUSTER_JOIN_SECRET_FILE
# Outputs: base64 on one line
#######################################
join_encrypt() {
  openssl enc -aes-256-cbc -md sha256 -salt -base64 -A -pass "file:${CLUSTER_JOIN_SECRET_FILE}" 2>/dev/null
}

#######################################
# The reverse of join_encrypt.
# Globals: CLUSTER_JOIN_SECRET_FILE
# Arguments: base64 text
# Outputs: what was encrypted
#######################################
join_decrypt() {
  printf '%s' "$1" | openssl enc -d -aes-256-cbc -md sha256 -base64 -A -pass "file:${CLUSTER_JOIN_SECRET_FILE}" 2>/dev/null
}

#######################################
# Tag of a text under the join secret: a nested hash, as HMAC is, made of standard input only.
# Globals: CLUSTER_JOIN_SECRET_FILE
# Arguments: text
# Outputs: 64 hex digits
#######################################
join_tag() {
  local inner
  inner=$({
    cat -- "${CLUSTER_JOIN_SECRET_FILE}"
    printf 'inner %s' "$1"
  } | sha256sum | cut -d' ' -f1)
  {
    cat -- "${CLUSTER_JOIN_SECRET_FILE}"
    printf 'outer %s' "${inner}"
  } | sha256sum | cut -d' ' -f1
}

#######################################
# sha256 of the CA's public key, as kubeadm pins it.
# Outputs: sha256:HEX
#######################################
ca_hash() {
  local sum
  sum=$(openssl x509 -pubkey -noout -in /etc/kubernetes/pki/ca.crt | openssl pkey -pubin -outform DER 2>/dev/null | sha256sum | cut -d' ' -f1)
  printf 'sha256:%s\n' "${sum}"
}

#######################################
# On a master: makes a fresh token and certificate key, valid for two hours, and publishes them encrypted.
# Neither is printed, nor on a command line, nor left in a file.
# Globals: CLUSTER_RELEASE RUN_DIRECTORY JOIN_CONFIGMAP
#######################################
join_publish() {
  local config expires plain
  # shellcheck disable=SC2034 # the templates read them
  local TOKEN CERTIFICATE_KEY JOIN_TEXT JOIN_TAG JOIN_EXPIRES
  config=$(mktemp -- "${RUN_DIRECTORY}/token.XXXXXX")
  # shellcheck disable=SC2064 # the name as it is now
  trap "rm -f -- '${config}'" EXIT
  TOKEN=$(kubeadm token generate)
  CERTIFICATE_KEY=$(kubeadm certs certificate-key)
  expires=$(($(date +%s) + 7200)) # kubeadm keeps the uploaded certificates for two hours
  kubeadm_values
  render_template "${CLUSTER_RELEASE}/templates/kubeadm-token.yaml" >"${config}"
  kubeadm init phase upload-certs --upload-certs --config "${config}" >/dev/null # it prints the key
  kubeadm init phase bootstrap-token --config "${config}" >/dev/null             # it prints the token
  plain="token=${TOKEN} key=${CERTIFICATE_KEY} ca=$(ca_hash) expires=${expires}"
  JOIN_TEXT=$(printf '%s' "${plain}" | join_encrypt)
  JOIN_TAG=$(join_tag "${JOIN_TEXT}")
  JOIN_EXPIRES=$(date -u -d "@${expires}" +%Y-%m-%dT%H:%M:%SZ)
  render_template "${CLUSTER_RELEASE}/templates/join-configmap.yaml" | kube_admin apply -f - >/dev/null
  note_change "published a join token that expires at ${JOIN_EXPIRES}"
}

#######################################
# Asks the cluster for a field of the published ConfigMap, as anybody may.
# Globals: CLUSTER_ENDPOINT JOIN_CONFIGMAP
# Arguments: field
# Outputs: its value
#######################################
join_field() {
  kubectl --kubeconfig=/dev/null --server="https://${CLUSTER_ENDPOINT}" --insecure-skip-tls-verify=true --request-timeout=10s \
    --namespace=kube-public get configmap "${JOIN_CONFIGMAP}" --output="jsonpath={.data.$1}" </dev/null
}

#######################################
# Waits until the first master has published how to join.
# Globals: CLUSTER_ENDPOINT JOIN_DEADLINE
#######################################
wait_for_cluster() {
  wait_until --deadline "${JOIN_DEADLINE}" --interval 3 "the first master to publish how to join, at ${CLUSTER_ENDPOINT}" join_read
}

#######################################
# Reads how to join. Nothing of it is logged.
# Globals: TOKEN CERTIFICATE_KEY CA_HASH (set)
# Returns: 1 if there is nothing yet, it is not from this cluster, or has expired
#######################################
join_read() {
  local text tag plain expires=0 field
  text=$(join_field text) || return 1
  tag=$(join_field tag) || return 1
  if [[ -z ${text} || $(join_tag "${text}") != "${tag}" ]]; then
    echo "what ${CLUSTER_ENDPOINT} publishes was not made with this cluster's join secret (${CLUSTER_JOIN_SECRET_FILE}): another cluster answers there, or this node's seed is another cluster's"
    return 1
  fi
  plain=$(join_decrypt "${text}") || return 1
  for field in ${plain}; do
    case ${field} in
      token=*) TOKEN=${field#*=} ;;
      key=*) CERTIFICATE_KEY=${field#*=} ;;
      ca=*) CA_HASH=${field#*=} ;;
      expires=*) expires=${field#*=} ;;
      *) ;;
    esac
  done
  : "${TOKEN:?}" "${CERTIFICATE_KEY:?}" "${CA_HASH:?}" # the template reads them
  if (($(date +%s) >= expires)); then
    echo "the join token has expired; make a fresh one on any master: cluster-installer token"
    return 1
  fi
}
