#!/usr/bin/env bats
# Preflight: every check with tables of made-up inputs, and with a real listener, registry, certificate and clock.
# A check runs in a bash of its own with errexit on; `run` on a function would switch that off inside it.

bats_require_minimum_version 1.5.0

setup_file() {
  export LIB=${BATS_TEST_DIRNAME}/../../installer-image/payload/lib
  export CLUSTER_NODE_NAME=worker-1 CLUSTER_NODE_IP=10.20.0.13 CLUSTER_NAME=demo
  export CLUSTER_NODES='master-1=10.20.0.11=first-master=amd64 master-2=10.20.0.12=master=arm64 worker-1=10.20.0.13=worker=amd64'
  export CLUSTER_ENDPOINT=api.demo.example:6443 CLUSTER_ENDPOINT_IP=127.0.0.1 CLUSTER_LB=none
  export CLUSTER_POD_CIDR=10.244.0.0/16 CLUSTER_SERVICE_CIDR=10.96.0.0/12 CLUSTER_KUBERNETES_VERSION=v1.20.2
  export CLUSTER_REGISTRY=registry.demo.example:5000 CLUSTER_REGISTRY_IP=127.0.0.1
}

setup() {
  CLEANUP=()
  cd "${BATS_TEST_TMPDIR}" || return
}

teardown() {
  local pid
  for pid in ${CLEANUP[@]+"${CLEANUP[@]}"}; do kill "${pid}" 2>/dev/null || true; done
}

# Runs a function of lib/ with everything sourced.
lib() {
  run bash -c 'set -Eeuo pipefail; source "${LIB}/utils.sh"; "$@"' bash "$@"
}

# Runs a command of several words, as a program.
lib_script() {
  run bash -c "set -Eeuo pipefail; source \"\${LIB}/utils.sh\"; $1" bash "${@:2}"
}

# Asserts exit code $1 and output that holds every further argument.
expect() {
  local wanted=$1 text
  shift
  for text in "$@"; do
    if [[ ${status} != "${wanted}" || ${output} != *"${text}"* ]]; then
      echo "wanted exit code ${wanted} and '${text}', got ${status}:"
      echo "${output}"
      return 1
    fi
  done
}

# Asserts that a check ended well and found nothing.
expect_nothing() {
  if [[ ${status} != 0 || -n ${output} ]]; then
    echo "wanted no finding, got ${status}:"
    echo "${output}"
    return 1
  fi
}

# ------------------------------------------------------------------------------------------ the machine

@test "os: every target's os-release is known, whatever its case and quotes" {
  local id
  for id in '"centos"' centos kylin '"kylin"' "'\"kylin\"'" '"anolis"' uos UOS '"openEuler"' debian; do
    printf 'NAME=x\nID=%s\nVERSION_ID="V10"\n' "${id}" >os-release
    lib check_os worker os-release
    expect_nothing
  done
}

@test "os: another one, an empty and a missing os-release are warnings" {
  printf 'ID=gentoo\nPRETTY_NAME="Gentoo $(touch pwned) Linux"\nID_LIKE=centos\n' >os-release
  lib check_os worker os-release
  expect 0 "WARN the OS is 'gentoo' (Gentoo \$(touch pwned) Linux)"
  [[ ! -e pwned ]]
  : >os-release
  lib check_os worker os-release
  expect 0 "WARN the OS is ''"
  lib check_os worker missing
  expect 0 'WARN missing cannot be read'
}

@test "payload: its arch, the machine's and that in CLUSTER_NODES must be one; so the version" {
  printf 'PAYLOAD_ARCH=amd64\nKUBERNETES_VERSION=v1.20.2\n' >payload.env
  lib check_payload worker payload.env x86_64
  expect_nothing
  lib check_payload worker payload.env aarch64
  expect 0 'ERROR the payload is for amd64, this machine is arm64' 'CONFIG CLUSTER_NODES says worker-1 is amd64, this machine is arm64'
  CLUSTER_KUBERNETES_VERSION=v1.21.0 lib check_payload worker payload.env x86_64
  expect 0 'CONFIG CLUSTER_KUBERNETES_VERSION is v1.21.0, the payload has v1.20.2'
  lib check_payload worker missing
  expect 0 'ERROR the payload has no payload.env'
}

@test "kernel: least versions, by that of Kubernetes" {
  local kernel version wanted
  while read -r kernel version wanted; do
    CLUSTER_KUBERNETES_VERSION=${version} lib check_kernel worker "${kernel}"
    if [[ ${wanted} == ok ]]; then expect_nothing; else expect 0 "ERROR the kernel is ${kernel}" "wants ${wanted} or later"; fi
  done <<'TABLE'
3.10.0-1160.el7.x86_64 v1.20.2 ok
4.19.90-52.22.v2207.ky10.aarch64 v1.20.2 ok
3.9.0 v1.20.2 3.10
2.6.32 v1.20.2 3.10
3.10.0-1160.el7.x86_64 v1.32.0 4.19
4.18.0-553.el8 v1.33.1 4.19
4.19.0 v1.32.0 ok
5.10.134 v1.32.0 ok
6.6.0-32.x.v2505.ky11 v2.0.0 ok
TABLE
}

v1_mounts() {
  local name
  echo 'tmpfs /sys/fs/cgroup tmpfs ro,nosuid 0 0'
  for name in "$@"; do echo "cgroup /sys/fs/cgroup/${name} cgroup rw,nosuid,${name} 0 0"; done
  echo 'cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0'
}

@test "cgroup: v1 as CentOS 7 mounts it, hybrid, v2; missing controllers" {
  v1_mounts cpuacct,cpu cpuset devices freezer memory pids >mounts
  lib check_cgroup worker mounts 3.10.0
  expect_nothing
  v1_mounts cpu,cpuacct cpuset devices freezer >mounts
  lib check_cgroup worker mounts 4.19.90
  expect 0 'ERROR cgroup v1 lacks the controllers memory pids;'
  echo 'cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0' >mounts
  echo 'cpuset cpu io memory hugetlb pids' >controllers
  lib check_cgroup worker mounts 6.1.0 controllers
  expect_nothing
  lib check_cgroup worker mounts 5.4.0 controllers
  expect 0 'WARN cgroup v2 with kernel 5.4.0'
  echo 'cpu io pids' >controllers
  lib check_cgroup worker mounts 6.1.0 controllers
  expect 0 'ERROR cgroup v2 lacks the controllers cpuset memory;'
  : >mounts
  lib check_cgroup worker mounts 6.1.0
  expect 0 'ERROR cgroup v1 lacks the controllers cpu cpuacct'
}

@test "modules: loaded, built in, to be loaded, missing" {
  mkdir -p proc/sys/net/bridge sys/module/nf_conntrack lib/modules/9.9.9
  touch proc/sys/net/bridge/bridge-nf-call-iptables
  printf 'nodev\toverlay\n' >proc/filesystems
  lib check_modules worker "${PWD}/proc" "${PWD}/sys" "${PWD}/lib/modules" 9.9.9
  expect_nothing
  rm -r proc/sys proc/filesystems
  touch proc/filesystems
  lib check_modules worker "${PWD}/proc" "${PWD}/sys" "${PWD}/lib/modules" 9.9.9
  expect 0 'ERROR the kernel has no module overlay;' 'ERROR the kernel has no module br_netfilter;'
  [[ ${output} != *nf_conntrack* ]]
  echo kernel/net/bridge/br_netfilter.ko >lib/modules/9.9.9/modules.builtin
  mkdir -p lib/modules/9.9.9/kernel
  # The smallest object file that depmod takes.
  python3 -c '
import struct, sys
names = b"\0.shstrtab\0"
head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 80, 0, 64, 0, 0, 64, 2, 1)
table = bytes(64) + struct.pack("<IIQQQQIIQQ", 1, 3, 0, 0, 64, len(names), 0, 0, 1, 0)
open(sys.argv[1], "wb").write(head + names.ljust(16, b"\0") + table)' lib/modules/9.9.9/kernel/overlay.ko
  depmod -b "${PWD}" 9.9.9 2>/dev/null
  lib check_modules worker "${PWD}/proc" "${PWD}/sys" "${PWD}/lib/modules" 9.9.9
  expect_nothing
}

@test "cores, memory and swap: kubeadm's limits" {
  lib check_cores worker 1
  expect_nothing
  lib check_cores master 1
  expect 0 'ERROR 1 processor(s), a master needs 2'
  lib check_cores first-master 2
  expect_nothing
  printf 'MemTotal:        1740800 kB\nMemFree: 1 kB\n' >meminfo # 1700 MB
  lib check_memory first-master meminfo
  expect_nothing
  printf 'MemTotal:        1739000 kB\n' >meminfo
  lib check_memory master meminfo
  expect 0 'ERROR 1698 MB of memory, a master needs 1700 MB'
  lib check_memory worker meminfo
  expect_nothing
  : >meminfo
  lib check_memory worker meminfo
  expect 0 'ERROR 0 MB of memory'
  printf 'Filename\tType\tSize\tUsed\tPriority\n' >swaps
  lib check_swap worker swaps
  expect_nothing
  printf '/dev/vda2 partition 1 0 -2\n/dev/zram0 partition 1 0 100\n' >>swaps
  lib check_swap worker swaps
  expect 0 'ERROR swap is on (/dev/vda2, /dev/zram0)' 'swapoff -a'
}

@test "machine-id: what is none" {
  echo 3d1219c7c4c5404aaa1f6d2a48adfda4 >id
  lib check_machine_id worker id
  expect_nothing
  lib check_machine_id worker missing
  expect 0 'ERROR missing is missing or empty'
  : >id
  lib check_machine_id worker id
  expect 0 'is missing or empty'
  echo uninitialized >id
  lib check_machine_id worker id
  expect 0 'does not hold 32 hexadecimal digits'
  printf '0%.0s' {1..32} >id
  lib check_machine_id worker id
  expect 0 'holds zeros only'
}

@test "disk: a full file system is named with its mount point" {
  [[ ${EUID} == 0 ]] || skip 'mounts a tmpfs, which needs root'
  run unshare -m bash -c '
    set -Eeuo pipefail
    source "${LIB}/utils.sh"
    mkdir state releases
    mount -t tmpfs -o size=3g none state
    check_disk worker "${PWD}/state/lib/deeper" /
    check_disk master "${PWD}/state/lib" "${PWD}/state/opt"
    mount -t tmpfs -o size=100m none releases
    check_disk worker "${PWD}/state" "${PWD}/releases/opt"'
  expect 0 "ERROR ${PWD}/state/lib has 3072 MB free, a master needs 5120 MB" "at ${PWD}/state" "releases/opt has 100 MB free, the releases need 1024 MB"
  [[ ${#lines[@]} == 2 ]]
}

@test "commands: what is missing is named" {
  lib check_commands worker bash no-such-command nor-this
  expect 0 'ERROR not installed: no-such-command nor-this;'
  mkdir bin
  ln -s "$(command -v bash)" bin/bash
  run env PATH="${PWD}/bin" bash -c 'source "${LIB}/preflight.sh"; source "${LIB}/preflight-host.sh"; check_commands worker bash'
  expect 0 'WARN not installed: socat ethtool tc;'
}

@test "security: SELinux, and NetworkManager where it is" {
  echo 1 >enforce
  lib check_security worker enforce
  expect 0 'WARN SELinux is enforcing'
  echo 0 >enforce
  lib check_security worker enforce
  expect_nothing
  mkdir -p bin manager/conf.d
  printf '#!/bin/bash\n[[ $* == "is-active NetworkManager.service" || $* == "is-active firewalld.service" ]] && echo active || echo inactive\n' >bin/systemctl
  chmod +x bin/systemctl
  PATH=${PWD}/bin:${PATH} lib check_security master enforce manager
  expect 0 'WARN firewalld is active' 'open TCP 6443, 2379, 2380, 10250' 'WARN NetworkManager may take over'
  echo 'unmanaged-devices=interface-name:flannel*;interface-name:cni*' >manager/conf.d/10-node.conf
  PATH=${PWD}/bin:${PATH} lib check_security worker enforce manager
  [[ ${output} != *NetworkManager* && ${output} == *'open TCP 10250, 30000'* ]]
}

# ------------------------------------------------------------------------------------------ names, addresses, ports

@test "host name: equal, named once, nobody else's" {
  echo '2: eth0    inet 10.20.0.13/24 brd 10.20.0.255 scope global eth0' >addr
  lib check_host_name worker worker-1 addr
  expect_nothing
  lib check_host_name worker localhost addr
  expect 0 "ERROR the host name is 'localhost', CLUSTER_NODE_NAME is 'worker-1'; run hostnamectl set-hostname worker-1"
  CLUSTER_NODE_NAME=worker-9 lib check_host_name worker worker-9 addr
  expect 0 'CONFIG CLUSTER_NODES does not name worker-9'
  CLUSTER_NODES="${CLUSTER_NODES} worker-1=10.20.0.14=worker=amd64" lib check_host_name worker worker-1 addr
  expect 0 'CONFIG CLUSTER_NODES names worker-1 2 times'
}

@test "host name: one that another machine answers to" {
  [[ ${EUID} == 0 ]] || skip 'needs root for a network and an /etc/hosts of its own'
  echo '2: eth0    inet 10.20.0.13/24 brd 10.20.0.255 scope global eth0' >addr
  printf '192.0.2.77 worker-1\n' >hosts
  run unshare -m -n bash -c 'set -Eeuo pipefail; source "${LIB}/utils.sh"; mount --bind hosts /etc/hosts
    ip link set lo up
    ip addr add 10.20.0.13/32 dev lo
    check_host_name worker worker-1 addr
    ip addr add 192.0.2.77/32 dev lo
    check_host_name worker worker-1 addr'
  expect 0 'WARN the name worker-1 resolves to 192.0.2.77' 'ERROR the name worker-1 belongs to 192.0.2.77, another machine that answers'
  [[ ${#lines[@]} == 2 ]]
}

@test "node address: on an interface, and the same in CLUSTER_NODES" {
  printf '1: lo    inet 127.0.0.1/8 scope host lo\n2: eth0    inet 10.20.0.13/24 brd 10.20.0.255 scope global eth0\n' >addr
  lib check_node_address worker addr
  expect_nothing
  CLUSTER_NODE_IP=10.20.0.1 lib check_node_address worker addr
  expect 0 'CONFIG no interface has CLUSTER_NODE_IP 10.20.0.1, this node has 127.0.0.1 10.20.0.13' 'CONFIG CLUSTER_NODES says worker-1 is 10.20.0.13'
}

@test "addresses: overlaps of pods, services, nodes and routes" {
  local pods services wanted
  cat >routes <<'ROUTES'
default via 10.20.0.1 dev eth0
10.20.0.0/24 dev eth0 proto kernel scope link src 10.20.0.13
172.30.0.0/16 via 10.20.0.9 dev eth0
192.168.77.5 dev tun0 scope link
unreachable 100.64.0.0/10
10.250.1.0/24 via 10.20.0.12 dev eth0 proto 98
10.250.2.0/24 dev cni0 proto kernel scope link src 10.250.2.1
ROUTES
  while IFS='|' read -r pods services wanted; do
    CLUSTER_POD_CIDR=${pods} CLUSTER_SERVICE_CIDR=${services} lib check_addresses worker routes
    if [[ -z ${wanted} ]]; then expect_nothing; else expect 0 "${wanted}"; fi
  done <<'TABLE'
10.244.0.0/16|10.96.0.0/12|
10.250.0.0/16|10.96.0.0/12|
10.244.0.0/16|10.244.128.0/20|CONFIG CLUSTER_POD_CIDR 10.244.0.0/16 and CLUSTER_SERVICE_CIDR 10.244.128.0/20 overlap
10.20.0.0/16|10.96.0.0/12|CONFIG CLUSTER_POD_CIDR 10.20.0.0/16 contains 10.20.0.11 of master-1
10.244.0.0/16|10.20.0.0/28|CONFIG CLUSTER_SERVICE_CIDR 10.20.0.0/28 overlaps 10.20.0.0/24, which this node is connected to by eth0
192.168.0.0/16|10.96.0.0/12|CONFIG CLUSTER_POD_CIDR 192.168.0.0/16 overlaps 192.168.77.5/32, which this node is connected to by tun0
172.16.0.0/12|10.96.0.0/12|WARN CLUSTER_POD_CIDR 172.16.0.0/12 overlaps the route to 172.30.0.0/16 by eth0
100.64.0.0/16|10.96.0.0/12|CONFIG CLUSTER_POD_CIDR 100.64.0.0/16 overlaps 100.64.0.0/10
|10.96.0.0/12|CONFIG CLUSTER_POD_CIDR and CLUSTER_SERVICE_CIDR must be set
TABLE
  CLUSTER_VIP=10.244.3.3 lib check_addresses worker routes
  expect 0 'CONFIG CLUSTER_POD_CIDR 10.244.0.0/16 contains 10.244.3.3 of VIP'
}

# Starts a program that listens on a free port of the loopback; PORT is that port.
listener() {
  python3 -c '
import socket, time
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.listen()
print(s.getsockname()[1], flush=True); time.sleep(600)' "$@" >port 3>&- &
  CLEANUP+=("$!")
  until [[ -s port ]]; do sleep 0.05; done
  PORT=$(<port)
}

@test "ports: a stranger's listener is named, ours of an earlier run is not" {
  listener
  lib check_ports worker "${PORT}"
  expect 0 "ERROR TCP port ${PORT} is taken by python3" "(pid ${CLEANUP[0]})"
  kill "${CLEANUP[0]}"
  wait "${CLEANUP[0]}" || true
  lib check_ports worker "${PORT}"
  expect_nothing
  rm port
  listener -c /etc/cluster-installer/nginx.conf # an argument that tells nginx of ours
  lib check_ports worker "${PORT}"
  expect_nothing
}

@test "ports: which ones, by role and balancer" {
  lib role_ports worker
  expect 0 10250
  [[ ${#lines[@]} == 1 ]]
  lib role_ports master
  [[ ${lines[*]} == '6443 2379 2380 10250 10257 10259' ]]
  CLUSTER_LB=nginx CLUSTER_ENDPOINT=api:8443 lib role_ports worker
  [[ ${lines[*]} == '10250 8443' ]]
}

@test "balancer: nginx with stream, keepalived on masters, the VIP's interface" {
  lib check_balancer master
  expect_nothing
  mkdir bin
  printf '#!/bin/bash\necho "configure arguments: --with-http --modules-path=%s --with-stream=dynamic" >&2\n' "${PWD}/none" >bin/nginx
  chmod +x bin/nginx
  PATH=${PWD}/bin:${PATH} lib nginx_has_stream
  [[ ${status} == 1 || -e /usr/lib/nginx/modules/ngx_stream_module.so ]]
  mkdir none
  touch none/ngx_stream_module.so
  CLUSTER_LB=nginx PATH=${PWD}/bin:${PATH} lib check_balancer worker
  expect_nothing
  printf '#!/bin/bash\necho "configure arguments: --with-stream --with-http" >&2\n' >bin/nginx
  CLUSTER_LB=nginx PATH=${PWD}/bin:${PATH} lib check_balancer worker
  expect_nothing
  CLUSTER_LB=vip CLUSTER_VIP_INTERFACE=nosuch0 lib check_balancer master
  expect 0 'CONFIG CLUSTER_VIP_INTERFACE nosuch0 does not exist'
  CLUSTER_LB=vip CLUSTER_VIP_INTERFACE=nosuch0 lib check_balancer worker
  expect_nothing
}

@test "endpoint: resolves, and answers a joiner" {
  CLUSTER_ENDPOINT_IP='' CLUSTER_ENDPOINT=api.invalid:6443 lib check_endpoint first-master
  expect 0 "ERROR the API's name api.invalid does not resolve"
  listener
  CLUSTER_ENDPOINT=api.demo.example:${PORT} lib check_endpoint worker
  expect_nothing
  kill "${CLEANUP[0]}"
  wait "${CLEANUP[0]}" || true
  CLUSTER_ENDPOINT=api.demo.example:${PORT} lib check_endpoint worker
  expect 0 "WARN the API at 127.0.0.1:${PORT} does not answer yet"
  CLUSTER_ENDPOINT=api.demo.example:${PORT} lib check_endpoint first-master
  expect_nothing
  CLUSTER_LB=nginx lib first_master_address
  expect 0 10.20.0.11
}

# ------------------------------------------------------------------------------------------ registry and clocks

@test "credentials: of docker and podman, escapes, ports, decoys" {
  local wanted
  wanted=$(printf 'me:pa"s/s:{word}' | base64)
  cat >config.json <<'JSON'
{ "credHelpers": {"registry.demo.example:5000": "x", "auth": "decoy"},
  "auths": {
    "registry.demo.example": {"auth": "b3RoZXI6cG9ydA=="},
    "https://registry.demo.example:5000/v2/": {"email": "auth", "username": "me", "password": "pa\"s\/s:{word}"},
    "plain.example": {"auth": "cGxhaW46YXV0aA\u003d\u003d"}, "empty.example": {}
  }, "registry2": {"auth": "decoy"} }
JSON
  lib registry_credentials config.json registry.demo.example:5000
  expect 0 "${wanted}"
  [[ ${output} == "${wanted}" ]]
  lib registry_credentials config.json plain.example
  [[ ${output} == 'cGxhaW46YXV0aA==' ]]
  lib registry_credentials config.json registry.demo.example
  [[ ${output} == 'b3RoZXI6cG9ydA==' ]]
  local host
  for host in empty.example registry2 other.example auths; do
    lib registry_credentials config.json "${host}"
    expect_nothing
  done
  printf '{"auths": {"a/team": {"auth": "dGVhbQ=="}, "a": {"auth": "aG9zdA=="}, "a/last": {"auth": "bGFzdA=="}}}' >config.json
  lib registry_credentials config.json a
  [[ ${output} == 'aG9zdA==' ]]
}

# Makes a CA $1.pem and a certificate $1-server.pem for registry.demo.example, signed by it.
certificates() {
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=CA $1" -keyout "$1.key" -out "$1.pem" 2>/dev/null
  openssl req -newkey rsa:2048 -nodes -subj /CN=registry.demo.example -keyout "$1-server.key" -out "$1.csr" 2>/dev/null
  printf 'subjectAltName=DNS:registry.demo.example\n' >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA "$1.pem" -CAkey "$1.key" -CAcreateserial -days 2 -extfile "$1.ext" -out "$1-server.pem" 2>/dev/null
}

# Prints a port that is free now.
free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Starts a real registry with TLS and a password; CLUSTER_REGISTRY is its name.
registry() {
  command -v docker-registry >/dev/null || skip 'docker-registry is not installed'
  command -v htpasswd >/dev/null || skip 'htpasswd is not installed'
  local port
  port=$(free_port)
  certificates site
  htpasswd -Bbn user secret-word >passwords
  cat >registry.yml <<YAML
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: ${PWD}/registry}}
http: {addr: "127.0.0.1:${port}", tls: {certificate: ${PWD}/site-server.pem, key: ${PWD}/site-server.key}}
auth: {htpasswd: {realm: site, path: ${PWD}/passwords}}
YAML
  docker-registry serve registry.yml >registry.log 2>&1 3>&- &
  CLEANUP+=("$!")
  export CLUSTER_REGISTRY=registry.demo.example:${port}
  until curl -sk -o /dev/null "https://127.0.0.1:${port}/"; do sleep 0.1; done
}

@test "registry: a real one, with the right and wrong CA, the right, wrong and no password" {
  registry
  printf '{"auths": {"%s": {"auth": "%s"}}}' "${CLUSTER_REGISTRY}" "$(printf user:secret-word | base64)" >right.json
  printf '{"auths": {"%s": {"auth": "%s"}}}' "${CLUSTER_REGISTRY}" "$(printf user:guessed-word | base64)" >wrong.json
  export REGISTRY_CA=${PWD}/site.pem REGISTRY_AUTH_FILE=${PWD}/right.json
  lib check_registry worker
  expect_nothing
  REGISTRY_AUTH_FILE=${PWD}/wrong.json lib check_registry worker
  expect 0 "ERROR the registry ${CLUSTER_REGISTRY} refuses the login of REGISTRY_AUTH_FILE ${PWD}/wrong.json (401)"
  [[ ${output} != *guessed* ]]
  REGISTRY_AUTH_FILE='' lib check_registry worker
  expect 0 'WARN' 'wants a login and there is none for it'
  REGISTRY_AUTH_FILE=${PWD}/missing.json lib check_registry worker
  expect 0 'CONFIG REGISTRY_AUTH_FILE'
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=another' -keyout other.key -out other.pem 2>/dev/null
  REGISTRY_CA=${PWD}/other.pem lib check_registry worker
  expect 0 'ERROR the registry' "its certificate is not signed by ${PWD}/other.pem"
  REGISTRY_CA='' lib check_registry worker
  expect 0 'ERROR' 'its certificate is not signed by a CA of this system'
  REGISTRY_MIRROR="mirror.invalid:${CLUSTER_REGISTRY##*:}/path" lib check_registry worker
  expect 0 'WARN the mirror mirror.invalid:' 'its name does not resolve'
  [[ ${output} != *ERROR* ]]
}

@test "registry: nothing there, no name, no TLS, not set" {
  local port
  port=$(free_port)
  CLUSTER_REGISTRY=registry.demo.example:${port} lib check_registry worker
  expect 0 'ERROR the registry' 'nothing listens there'
  CLUSTER_REGISTRY=registry.invalid CLUSTER_REGISTRY_IP='' lib check_registry worker
  expect 0 'ERROR' 'its name does not resolve'
  CLUSTER_REGISTRY='' lib check_registry worker
  expect 0 'CONFIG CLUSTER_REGISTRY is not set'
}

# Starts an HTTPS server that is off by $1 seconds and gives $2 to /v2/, with a token server that knows one password.
https_server() {
  certificates site
  cat >server.py <<'PYTHON'
import base64, email.utils, http.server, ssl, sys, time

skew, code = int(sys.argv[1]), int(sys.argv[2])

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def date_time_string(self, timestamp=None):
        return email.utils.formatdate(time.time() + skew, usegmt=True)
    def do_GET(self):
        right = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"user:secret-word").decode()
        here = f"https://registry.demo.example:{self.server.server_port}"
        if self.path == "/slow/": time.sleep(20)
        self.send_response((200 if right else 401) if self.path.startswith("/token") else code)
        if code == 401: self.send_header("WWW-Authenticate", f'Bearer realm="{here}/token",service="the site"')
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_HEAD = do_GET
    def log_message(self, *words): pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("site-server.pem", "site-server.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
PYTHON
  rm -f port
  python3 server.py "$@" >port 3>&- &
  CLEANUP+=("$!")
  until [[ -s port ]]; do sleep 0.05; done
  CLUSTER_REGISTRY=registry.demo.example:$(<port)
  export CLUSTER_REGISTRY REGISTRY_CA=${PWD}/site.pem
}

@test "registry: answers that are no registry's" {
  local code wanted
  while read -r code wanted; do
    https_server 0 "${code}"
    lib check_registry worker
    expect 0 "${wanted}" "answers ${code}"
  done <<'TABLE'
404 ERROR
500 ERROR
503 ERROR
429 WARN
TABLE
}

@test "registry: one with a token server is asked for the login there" {
  https_server 0 401
  printf '{"auths": {"%s": {"username": "user", "password": "secret-word"}}}' "${CLUSTER_REGISTRY}" >right.json
  printf '{"auths": {"%s": {"username": "user", "password": "guessed"}}}' "${CLUSTER_REGISTRY}" >wrong.json
  printf '{"auths": {"another": {"username": "user", "password": "guessed"}}}' >another.json
  # The token server's name is the registry's, which only --resolve knows here.
  REGISTRY_AUTH_FILE=${PWD}/another.json lib check_registry worker
  expect 0 "WARN REGISTRY_AUTH_FILE ${PWD}/another.json has no login for ${CLUSTER_REGISTRY}"
  REGISTRY_AUTH_FILE=${PWD}/right.json lib check_registry worker
  expect_nothing
  REGISTRY_AUTH_FILE=${PWD}/wrong.json lib check_registry worker
  expect 0 'ERROR' 'refuses the login'
  REGISTRY_AUTH_FILE='' lib check_registry worker
  expect_nothing
}

@test "time: an hour off is told with both times; a few seconds are not" {
  https_server -3600 200
  CLUSTER_ENDPOINT=api.demo.example:${CLUSTER_REGISTRY##*:} lib check_time worker
  expect 0 "ERROR this node's clock says " "the registry ${CLUSTER_REGISTRY} says " "s apart; start chronyd" 'the API says '
  [[ ${#lines[@]} == 2 ]]
  lib check_time first-master
  [[ ${#lines[@]} == 1 ]]
  https_server 20 200
  lib check_time first-master
  expect_nothing
  CLUSTER_REGISTRY=registry.demo.example:1 lib check_time first-master
  expect_nothing
}

@test "credentials never stand on a command line" {
  registry
  printf '{"auths": {"%s": {"username": "user", "password": "secret-word"}}}' "${CLUSTER_REGISTRY}" >right.json
  mkdir bin
  printf '#!/bin/bash\nprintf "%%s\\n" "$@" >>"%s"\nexec "%s" "$@"\n' "${PWD}/arguments" "$(command -v curl)" >bin/curl
  chmod +x bin/curl
  PATH=${PWD}/bin:${PATH} REGISTRY_CA=${PWD}/site.pem REGISTRY_AUTH_FILE=${PWD}/right.json lib check_registry worker
  expect_nothing
  grep -q -- --config arguments
  run ! grep -qE "secret-word|$(printf user:secret-word | base64)" arguments
}

# ------------------------------------------------------------------------------------------ all of them

# Runs preflight with these checks only, made of the words: NAME=TEXT prints TEXT.
preflight_of() {
  lib_script 'PREFLIGHT_CHECKS=()
    for word in "$@"; do
      PREFLIGHT_CHECKS+=("${word%%=*}")
      eval "check_${word%%=*}() { ${word#*=}; }"
    done
    preflight worker' "$@"
}

@test "preflight: all problems are told, and the exit code says whose they are" {
  preflight_of one=: two='found WARN careful'
  expect 0 'WARN' 'two: careful' '0 errors, 1 warnings'
  preflight_of one='found ERROR "first; do a"' two='found ERROR "second; do b"' three='found WARN third'
  expect 1 'one: first; do a' 'two: second; do b' 'three: third' '2 errors, 1 warnings'
  preflight_of one='found ERROR "first; do a"' two='found CONFIG "second; do b"'
  expect 78 'one: first' 'two: second' 'Correct cluster.env'
}

@test "preflight: a check that fails itself is a problem, not a success" {
  preflight_of one='false; found WARN unreachable' two='found WARN after'
  expect 1 'one: the check itself failed' 'two: after'
  [[ ${output} != *unreachable* ]]
  preflight_of one='exit 0'
  expect 1 'one: the check itself failed'
}

@test "preflight: the checks run at the same time" {
  # Each waits for the other: one after the other they would wait for ever.
  mkfifo a b
  preflight_of one='echo >a; read -r _ <b' two='read -r _ <a; echo >b'
  expect 0 '0 errors'
}

@test "preflight: the real checks of every role, with everything unreachable, end and leave no process" {
  export CLUSTER_REGISTRY=registry.invalid CLUSTER_REGISTRY_IP=192.0.2.200 CLUSTER_ENDPOINT_IP=192.0.2.201
  local role
  for role in first-master master worker; do
    lib preflight "${role}"
    expect 78 'CONFIG' || expect 78 'no interface has CLUSTER_NODE_IP' 'registry: the registry registry.invalid cannot be used'
    [[ ${output} != *'the check itself failed'* ]]
  done
}
