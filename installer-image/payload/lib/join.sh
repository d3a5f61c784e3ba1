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
# On a master: makes a fresh token and certificate key and publishes them, in a program of its own that cleans up behind itself.
# Globals: CLUSTER_RELEASE
#######################################
join_publish() {
  "${CLUSTER_RELEASE}/bin/publish-join"
}

#######################################
# Asks the cluster for the published ConfigMap, as anybody may: without credentials, and not knowing the CA yet. (kubectl asks for a
# user name then.)
# Globals: CLUSTER_ENDPOINT JOIN_CONFIGMAP
# Outputs: the ConfigMap as JSON
#######################################
join_fetch() {
  curl --silent --show-error --fail --insecure --max-time 10 "https://${CLUSTER_ENDPOINT}/api/v1/namespaces/kube-public/configmaps/${JOIN_CONFIGMAP}"
}

#######################################
# Arguments: field, the ConfigMap as JSON; the values are base64 and hex, so that nothing in them is escaped
# Outputs: the field's value
#######################################
join_field() {
  sed -n "s/.*\"$1\": *\"\([A-Za-z0-9+/=]*\)\".*/\1/p" <<<"$2"
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
  local published text tag plain expires=0 field
  published=$(join_fetch) || return 1
  text=$(join_field text "${published}")
  tag=$(join_field tag "${published}")
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
