#!/usr/bin/env bats
# lib/download.sh, against a real server on the loopback and its faults (server.py).

setup() {
  load lib
  SOURCE=${BATS_TEST_TMPDIR}/source T=${BATS_TEST_TMPDIR}/to/target
  export DOWNLOAD_ATTEMPTS=3 DOWNLOAD_DELAY=0
  head -c 200000 /dev/urandom >"${SOURCE}"
  SUM=$(sha256sum "${SOURCE}")
  SUM=${SUM%% *}
  python3 "${BATS_TEST_DIRNAME}/server.py" "${SOURCE}" "${BATS_TEST_TMPDIR}/port" 3>&- &
  SERVER=$!
  until_true test -e "${BATS_TEST_TMPDIR}/port"
  URL=http://127.0.0.1:$(<"${BATS_TEST_TMPDIR}/port")
}

teardown() {
  kill "${SERVER}" 2>/dev/null || true
  wait "${SERVER}" 2>/dev/null || true
}

fetch() { lib 'download "$@"' "$1" "${2:-${SUM}}" "${T}"; }

# Asserts that the target is whole and alone.
arrived() {
  expect 0
  cmp "${SOURCE}" "${T}"
  same target "$(ls -A "${T%/*}")"
}

# Asserts that nothing was left.
nothing() { same '' "$(ls -A "${T%/*}" 2>/dev/null)"; }

requests() { cat "${BATS_TEST_TMPDIR}/port.log"; }

@test "download: arrives, and is not fetched again" {
  fetch "${URL}/file"
  arrived
  kill "${SERVER}"
  fetch "${URL}/file"
  arrived
  same '/file whole' "$(requests)"
}

@test "download: a target with another sum is replaced" {
  mkdir "${T%/*}"
  echo damaged >"${T}"
  fetch "${URL}/file"
  arrived
}

@test "download: redirects are followed, and a server that is busy is asked again" {
  fetch "${URL}/redirect"
  arrived
  rm "${T}"
  fetch "${URL}/flaky"
  arrived
}

@test "download: a connection that breaks off is taken up where it was" {
  fetch "${URL}/cut"
  arrived
  same $'/cut whole\n/cut bytes=100000-' "$(requests)"
}

@test "download: what an earlier run has fetched is used, also if it was all" {
  mkdir "${T%/*}"
  head -c 150000 "${SOURCE}" >"${T}.partial"
  fetch "${URL}/file"
  arrived
  same '/file bytes=150000-' "$(requests)"
  rm "${T}"
  cp "${SOURCE}" "${T}.partial"
  fetch "${URL}/none"
  arrived
}

@test "download: a run that gave up leaves its part to the next one" {
  DOWNLOAD_ATTEMPTS=1 lib 'download "$@"; echo WRONG' "${URL}/always-cut" "${SUM}" "${T}"
  expect 1 'cannot download'
  same target.partial "$(ls -A "${T%/*}")"
  fetch "${URL}/file"
  arrived
}

@test "download: servers that know no ranges, and parts that are too long" {
  local path
  for path in plain refuse-range; do
    rm -rf "${T%/*}"
    mkdir "${T%/*}"
    head -c 1000 "${SOURCE}" >"${T}.partial"
    fetch "${URL}/${path}"
    arrived
  done
  rm "${T}"
  head -c 300000 /dev/zero >"${T}.partial"
  fetch "${URL}/file"
  arrived
}

@test "download: a part of another file is thrown away, and all is fetched anew" {
  mkdir "${T%/*}"
  head -c 1000 /dev/zero >"${T}.partial"
  fetch "${URL}/file"
  arrived
}

@test "download: another sum leaves nothing, and an older target stays" {
  fetch "${URL}/file" "$(printf '0%.0s' {1..64})"
  expect 1 'has another sha256 than the expected 0000'
  nothing
  echo old >"${T}"
  fetch "${URL}/file" "$(printf '0%.0s' {1..64})"
  expect 1
  same old "$(<"${T}")"
  same target "$(ls -A "${T%/*}")"
}

@test "download: no such file, no server" {
  fetch "${URL}/none"
  expect 1 'attempt 3 of 3: giving up' 'cannot download' '404'
  nothing
  kill "${SERVER}"
  wait "${SERVER}" || true
  fetch "${URL}/file"
  expect 1 'cannot download'
  nothing
}

@test "download: passwords and queries of the URL are not told" {
  local url=http://user:SECRET@${URL#http://}
  fetch "${url}/file?token=SECRET"
  expect 0 "downloaded ${URL}/file"
  refuse SECRET
  rm "${T}"
  fetch "${url}/none?token=SECRET"
  expect 1
  refuse SECRET
}

@test "download: HTTPS with the right CA, with another, and without" {
  local port
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1 -keyout "${BATS_TEST_TMPDIR}/key" -out "${BATS_TEST_TMPDIR}/ca" 2>/dev/null
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=other -keyout "${BATS_TEST_TMPDIR}/key2" -out "${BATS_TEST_TMPDIR}/ca2" 2>/dev/null
  python3 - "${BATS_TEST_TMPDIR}" 3>&- <<'PYTHON' &
import functools, http.server, os, ssl, sys
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1] + "/ca", sys.argv[1] + "/key")
server.socket = context.wrap_socket(server.socket, server_side=True)
sys.stderr = open(os.devnull, "w")
with open(sys.argv[1] + "/tls.new", "w") as file: file.write(str(server.server_address[1]))
os.rename(sys.argv[1] + "/tls.new", sys.argv[1] + "/tls")
server.serve_forever()
PYTHON
  local tls=$!
  until_true test -e "${BATS_TEST_TMPDIR}/tls"
  port=$(<"${BATS_TEST_TMPDIR}/tls")
  lib 'download "$@"' "https://127.0.0.1:${port}/source" "${SUM}" "${T}" "${BATS_TEST_TMPDIR}/ca2"
  expect 1 'certificate'
  lib 'download "$@"' "https://127.0.0.1:${port}/source" "${SUM}" "${T}"
  expect 1 'certificate'
  nothing
  lib 'download "$@"' "https://127.0.0.1:${port}/source" "${SUM}" "${T}" "${BATS_TEST_TMPDIR}/ca"
  kill "${tls}"
  arrived
}

@test "download: a full disk is an error, and the file is not there" {
  needs_root
  in_small_disk "DOWNLOAD_ATTEMPTS=1; download ${URL}/file ${SUM} \"\${PWD}/target\" || echo \"code \$?\"; [[ ! -e target ]]"
  expect 0 'code 1'
}

@test "download: wrong use, table" {
  local row
  for row in '' 'http://x' "http://x ${SUM}" "http://x ${SUM} relative" 'http://x abc /x' "http://x ${SUM^^} /x"; do
    lib "download ${row}"
    expect 64 'download: '
  done
}
