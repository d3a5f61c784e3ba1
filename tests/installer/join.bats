#!/usr/bin/env bats
# lib/join.sh: what the first master publishes can be read by a node with the same secret, and by nobody else.

setup() {
  LIB=${BATS_TEST_DIRNAME}/../../installer-image/payload/lib
  cd "${BATS_TEST_TMPDIR}" || return
  openssl rand -hex 32 >secret
  openssl rand -hex 32 >other
}

# Runs a script with lib/ loaded and the join secret of $1.
with_secret() {
  run env CLUSTER_JOIN_SECRET_FILE="$1" CLUSTER_ENDPOINT=api.demo:6443 bash -c "set -Eeuo pipefail; . '${LIB}/utils.sh'; $2"
}

# Makes text and tag as join_publish does, and a curl that answers with them.
publish() {
  with_secret secret "text=\$(printf '%s' 'token=abc.def key=k1 ca=sha256:c expires=$1' | join_encrypt); printf '%s' \"\${text}\" >text; join_tag \"\${text}\" >tag"
  [[ ${status} -eq 0 ]]
  mkdir -p bin
  cat >bin/curl <<'CURL'
#!/bin/bash
[[ $* == *--insecure*https://api.demo:6443/api/v1/namespaces/kube-public/configmaps/cluster-join ]] || exit 9
printf '{\n "data": {\n  "expires": "2026",\n  "tag": "%s",\n  "text": "%s"\n }, "f:text": {}\n}\n' "$(<tag)" "$(<text)"
CURL
  chmod 0755 bin/curl
  PATH=${PWD}/bin:${PATH}
}

@test "join_encrypt and join_decrypt are each other's reverse" {
  with_secret secret 'text=$(printf hello | join_encrypt); [[ ${text} != *hello* ]]; join_decrypt "${text}"'
  [[ ${status} -eq 0 && ${output} == hello ]]
}

@test "join_encrypt never gives the same text twice" {
  with_secret secret '[[ $(printf hello | join_encrypt) != $(printf hello | join_encrypt) ]]'
  [[ ${status} -eq 0 ]]
}

@test "join_tag depends on the secret and on the text" {
  with_secret secret 'join_tag text'
  one=${output}
  [[ ${one} =~ ^[0-9a-f]{64}$ ]]
  with_secret secret 'join_tag text'
  [[ ${output} == "${one}" ]]
  with_secret secret 'join_tag texu'
  [[ ${output} != "${one}" ]]
  with_secret other 'join_tag text'
  [[ ${output} != "${one}" ]]
}

@test "join_read gives token, key and CA" {
  publish "$(($(date +%s) + 60))"
  with_secret secret 'join_read; printf "%s %s %s" "${TOKEN}" "${CERTIFICATE_KEY}" "${CA_HASH}"'
  [[ ${status} -eq 0 && ${output} == 'abc.def k1 sha256:c' ]]
}

@test "join_read refuses what another cluster publishes" {
  publish "$(($(date +%s) + 60))"
  with_secret other join_read
  [[ ${status} -eq 1 && ${output} == *"not made with this cluster's join secret"* ]]
  [[ ${output} != *abc.def* ]]
}

@test "join_read refuses a text that was changed" {
  publish "$(($(date +%s) + 60))"
  printf 'AAAA%s' "$(<text)" >changed && mv changed text
  with_secret secret join_read
  [[ ${status} -eq 1 && ${output} == *"not made with"* ]]
}

@test "join_read says how to make a fresh token when this one has expired" {
  publish "$(($(date +%s) - 1))"
  with_secret secret join_read
  [[ ${status} -eq 1 && ${output} == *'cluster-installer token'* ]]
}

@test "join_read fails while nothing is published" {
  publish 1
  printf '#!/bin/bash\necho "curl: (22) The requested URL returned error: 404" >&2\nexit 1\n' >bin/curl
  with_secret secret join_read
  [[ ${status} -eq 1 && ${output} == *404* ]]
}

@test "wait_for_cluster gives up at its deadline and names the endpoint" {
  publish 1
  printf '#!/bin/bash\nexit 1\n' >bin/curl
  with_secret secret 'JOIN_DEADLINE=1; wait_for_cluster'
  [[ ${status} -ne 0 && ${output} == *api.demo:6443* ]]
}
