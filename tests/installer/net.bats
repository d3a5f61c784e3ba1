#!/usr/bin/env bats
# lib/net.sh

setup() { load lib; }

@test "ip_to_int: table" {
  local row
  for row in 0.0.0.0=0 0.0.0.1=1 10.0.0.11=167772171 127.0.0.1=2130706433 192.168.9.255=3232238079 255.255.255.255=4294967295; do
    lib 'ip_to_int "$1"' "${row%=*}"
    expect 0
    same "${row#*=}" "${output}"
  done
}

@test "ip_to_int, ip_valid and default_interface_of: bad addresses" {
  local address function
  for address in '' 1 1.2.3 1.2.3.4.5 256.1.1.1 1.2.3.256 01.2.3.4 1.2.3.04 1.2.3.x '1.2.3.4 ' ' 1.2.3.4' -1.2.3.4 1.2.3.4/8 ::1 $'1.2.3.4\n' 'a[$(id)].2.3.4'; do
    for function in ip_to_int ip_valid default_interface_of; do
      lib "${function} \"\$1\"" "${address}"
      expect 1
    done
  done
}

@test "cidr_contains: table" {
  local row network address wanted
  for row in '10.0.0.0/8 10.255.255.255 0' '10.0.0.0/8 11.0.0.0 1' '10.0.0.0/8 9.255.255.255 1' '10.1.2.3/32 10.1.2.3 0' '10.1.2.3/32 10.1.2.4 1' '0.0.0.0/0 255.255.255.255 0' \
    '10.96.0.0/12 10.111.255.255 0' '10.96.0.0/12 10.112.0.0 1' '192.168.1.77/24 192.168.1.1 0' '128.0.0.0/1 200.1.1.1 0'; do
    read -r network address wanted <<<"${row}"
    lib 'cidr_contains "$1" "$2"' "${network}" "${address}"
    expect "${wanted}"
  done
}

@test "cidr_overlap: table, both ways" {
  local row one other wanted
  for row in '10.0.0.0/8 10.96.0.0/12 0' '10.244.0.0/16 10.96.0.0/12 1' '10.0.0.0/9 10.128.0.0/9 1' '10.0.0.0/24 10.0.0.0/24 0' '10.0.0.255/32 10.0.0.0/24 0' '10.0.1.0/24 10.0.0.0/24 1' '0.0.0.0/0 1.1.1.1/32 0'; do
    read -r one other wanted <<<"${row}"
    lib 'cidr_overlap "$1" "$2"' "${one}" "${other}"
    expect "${wanted}"
    lib 'cidr_overlap "$2" "$1"' "${one}" "${other}"
    expect "${wanted}"
  done
}

@test "cidr_*: malformed is 2, never a no" {
  local cidr
  for cidr in '' 10.0.0.0 10.0.0.0/ 10.0.0.0/33 10.0.0.0/08 10.0.0/8 10.0.0.0/8/8 /8 10.0.0.0/-1 fd00::/8; do
    lib 'cidr_contains "$1" 10.0.0.1' "${cidr}"
    expect 2 'is no IPv4 network'
    lib 'cidr_overlap 10.0.0.0/8 "$1"' "${cidr}"
    expect 2
  done
  lib 'cidr_contains 10.0.0.0/8 nonsense'
  expect 2
}

@test "port_in_use: a port that is listened on, before and after, and one whose number ends alike" {
  mkfifo "${BATS_TEST_TMPDIR}/end"
  python3 -c '
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
open(sys.argv[1]).read()' "${BATS_TEST_TMPDIR}/end" >"${BATS_TEST_TMPDIR}/port" 3>&- &
  until_true test -s "${BATS_TEST_TMPDIR}/port"
  local port
  port=$(<"${BATS_TEST_TMPDIR}/port")
  lib 'port_in_use "$1"' "${port}"
  expect 0
  : >"${BATS_TEST_TMPDIR}/end"
  wait
  lib 'port_in_use "$1"' "${port}"
  expect 1
}

@test "port_in_use: a bad port, and no ss" {
  local port
  for port in '' 0 65536 99999999 http 080 -1; do
    lib 'port_in_use "$1"' "${port}"
    expect 2 'is no port'
  done
  lib 'PATH=/nonexistent; port_in_use 80'
  expect 2 'ss of iproute2 does not run'
}

@test "default_interface_of: the loopback's, another's, none" {
  lib 'default_interface_of 127.0.0.1'
  expect 0
  same lo "${output}"
  lib 'default_interface_of 203.0.113.77'
  expect 1 'no interface of this machine has the address 203.0.113.77'
}

@test "default_interface_of: one of several addresses, in a network namespace" {
  needs_root
  run unshare -n bash -c "set -Eeuo pipefail; . '${PAYLOAD}/lib/utils.sh'; ip link add one0 type veth peer name two0
    ip addr add 10.9.0.1/24 dev one0; ip addr add 10.9.0.11/24 dev two0; ip addr add 10.9.1.1/24 dev two0; default_interface_of 10.9.1.1; default_interface_of 10.9.0.1"
  expect 0
  same $'two0\none0' "${output}"
}
