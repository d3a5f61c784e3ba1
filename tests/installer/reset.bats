#!/usr/bin/env bats
# Reset, on a node made up of real rules, mounts, interfaces and processes. Each test has mounts, a network and process ids of its own,
# so nothing of the machine it runs on can be hit: what reset looks at is covered by fresh file systems.

setup() {
  [[ ${EUID} == 0 ]] || skip 'needs root for mounts and a network of its own'
  cd "${BATS_TEST_TMPDIR}" || return
  cp -a "${BATS_TEST_DIRNAME}/../../installer-image/payload" payload
  cat >node <<'NODE'
set -Eeuo pipefail
trap 'echo "the test itself failed at line ${LINENO} of its script"' ERR
mkdir -p upper
mount -t tmpfs none upper
mkdir upper/{etc,bin}{,-work}
mount -t overlay -o lowerdir=/etc,upperdir=upper/etc,workdir=upper/etc-work none /etc
mkdir -p /usr/local/bin
mount -t overlay -o lowerdir=/usr/local/bin,upperdir=upper/bin,workdir=upper/bin-work none /usr/local/bin
for directory in /opt /var/lib /run /var/log /root; do mount -t tmpfs none "${directory}"; done
rm -rf /etc/cni /etc/kubernetes /etc/systemd/system
mkdir /etc/systemd/system
ip link set lo up
RELEASE=/opt/cluster-installer/releases/$(printf 'a%.0s' {1..64})

# A node with all that the installer leaves, without its processes.
installed() {
  mkdir -p "${RELEASE}/components/kubelet" /usr/local/bin /opt/cni/bin /etc/systemd/system/multi-user.target.wants
  cp -a payload/. "${RELEASE}/"
  cp /bin/sleep "${RELEASE}/components/kubelet/kubelet"
  ln -s "${RELEASE}" /opt/cluster-installer/current
  ln -s /opt/cluster-installer/current/components/kubelet/kubelet /usr/local/bin/kubelet
  ln -s /opt/cluster-installer/current/components/cni-plugins/bridge /opt/cni/bin/bridge
  ln -s /bin/true /usr/local/bin/of-the-user
  local unit
  for unit in containerd.service kubelet.service cert-renew.timer; do
    printf '# cluster-installer\n[Unit]\nDescription=x\n[Install]\nWantedBy=multi-user.target\n' >"/etc/systemd/system/${unit}"
    ln -s "/etc/systemd/system/${unit}" "/etc/systemd/system/multi-user.target.wants/${unit}"
  done
  printf '[Unit]\nDescription=of the user\n' >/etc/systemd/system/pod-routes.service
  mkdir -p /etc/kubernetes/pki/etcd /var/lib/etcd/member /var/lib/kubelet/pods/1/volumes/data /var/lib/containerd/x ~root/.kube
  mkdir -p /var/lib/cni/networks/cluster /var/lib/cni/networks/podman /etc/cni/net.d /etc/containerd/certs.d/{ours,theirs} /etc/cluster
  mkdir -p /var/lib/cluster-installer /run/cluster-installer /var/log/cluster-installer /etc/cluster-installer /run/netns /run/containerd
  echo key >/etc/kubernetes/pki/ca.key
  echo admin | tee /etc/kubernetes/admin.conf >~root/.kube/config
  echo 10.244.1.2 | tee /var/lib/cni/networks/cluster/10.244.1.2 >/var/lib/cni/networks/podman/10.88.0.2
  echo '{"name": "cluster"}' >/etc/cni/net.d/10-cluster.conflist
  echo '{"name": "podman"}' >/etc/cni/net.d/87-podman.conflist
  printf '# cluster-installer\nversion = 2\n' >/etc/containerd/config.toml
  printf '# cluster-installer\n' >/etc/containerd/certs.d/ours/hosts.toml
  printf '# the user\n' >/etc/containerd/certs.d/theirs/hosts.toml
  printf 'runtime-endpoint: unix:///run/containerd/containerd.sock\nimage-endpoint: unix:///run/containerd/containerd.sock\n' >/etc/crictl.yaml
  mkdir -p /etc/modules-load.d /etc/sysctl.d
  touch /etc/modules-load.d/cluster-installer.conf /etc/sysctl.d/90-cluster-installer.conf /etc/cluster/cluster.env /etc/cluster-installer/nginx.conf
  printf '127.0.0.1 localhost\n# BEGIN cluster-installer nodes\n10.0.0.1 m\n# END cluster-installer nodes\n10.9.9.9 of-the-user\n# BEGIN cluster-installer registry\n10.8.8.8 also-the-user\n' >/etc/hosts
}

# Every path that reset may touch, with the kind and the content's sum; then rules, links and mounts.
state() {
  find /etc /opt /var/lib /run /root /var/log /usr/local/bin -xdev \( -type f -exec sha256sum {} + \) -o -printf '%p %y %l\n' 2>/dev/null | sort
  iptables-nft-save | sed '/^#/d'
  iptables-legacy-save | sed '/^#/d'
  ip -o link | sed 's/ state .*//'
  ip route
  awk '{ print $5 }' /proc/self/mountinfo
}
NODE
}

# containerd's cgroups are the machine's own, whatever the namespace.
teardown() {
  [[ -z ${CGROUP-} ]] || find /sys/fs/cgroup -maxdepth 4 -depth -type d -path "*/${CGROUP}*" -exec rmdir {} +
}

# Runs a script on such a node.
node() {
  printf '%s\n' "$1" >script
  # An iptables that looks for the old tables in /proc needs /proc of its own network.
  run unshare --mount --net --pid --fork --kill-child --mount-proc bash -c 'cat node script >both; exec bash both' 3>&-
}

# Asserts exit code $1 and output that holds every further argument.
expect() {
  local wanted=$1 text
  shift
  for text in "" "$@"; do
    if [[ ${status} != "${wanted}" || ${output} != *"${text}"* ]]; then
      echo "wanted exit code ${wanted} and '${text}', got ${status}:"
      echo "${output}"
      return 1
    fi
  done
}

# Asserts that the output has none of the arguments.
refuse() {
  local text
  for text in "$@"; do
    if [[ ${output} == *"${text}"* ]]; then
      echo "not wanted: '${text}'"
      echo "${output}"
      return 1
    fi
  done
}

@test "a node where nothing is installed: says so, changes nothing" {
  node 'rm -f /etc/cluster/cluster.env; state >before; payload/reset.sh; state >after; diff before after && echo unchanged'
  expect 0 'nothing to do: no cluster is installed on this node' unchanged
  refuse 'next boot'
}

@test "files: ours go, others' stay; the second run has nothing to do" {
  node 'installed; "${RELEASE}/reset.sh" --yes; echo "== second"; "${RELEASE}/reset.sh" --yes; echo "== state"
    ls -d /etc/kubernetes /var/lib/etcd /var/lib/kubelet /var/lib/containerd ~root/.kube/config /etc/systemd/system/{containerd,kubelet,pod-routes}.service \
      /etc/systemd/system/*.wants/* /opt/cni /usr/local/bin/{kubelet,of-the-user} /var/lib/cni/networks/* /etc/cni/net.d/* /etc/containerd/certs.d/* \
      /etc/containerd/config.toml /etc/crictl.yaml /etc/cluster-installer /etc/{modules-load.d,sysctl.d}/*cluster-installer* /var/lib/cluster-installer \
      /run/{cluster-installer,containerd} /var/log/cluster-installer /opt/cluster-installer/* /etc/cluster/cluster.env 2>/dev/null | grep -v cni.lock || true
    cat /etc/hosts'
  local kept='/etc/cluster/cluster.env
/etc/cni/net.d/87-podman.conflist
/etc/containerd/certs.d/theirs
/etc/systemd/system/pod-routes.service
/opt/cluster-installer/releases
/usr/local/bin/of-the-user
/var/lib/cni/networks/podman
/var/log/cluster-installer
127.0.0.1 localhost
10.9.9.9 of-the-user
10.8.8.8 also-the-user'
  expect 0 'actions, 0 failed' '/etc/cni/net.d/87-podman.conflist stays' "so the next boot installs again; 'systemctl disable cluster-bootstrap'"
  [[ ${output#*== second} == *'nothing to do'* ]]
  diff <(echo "${kept}") <(echo "${output#*== state}" | grep -v -e '/etc/systemd/system/.*wants' -e '^$')
}

@test "a kubeconfig of another cluster stays; so does a directory that is a disk of its own, empty" {
  node 'installed; echo other >~root/.kube/config
    mount -t tmpfs none /var/lib/etcd; mkdir -p /var/lib/etcd/member/snap
    payload/reset.sh --yes; cat ~root/.kube/config; mountpoint /var/lib/etcd; find /var/lib/etcd; payload/reset.sh --yes'
  expect 0 $'\nother\n' '/var/lib/etcd is a mountpoint' 'nothing to do'
  refuse $'\n/var/lib/etcd/member\n'
}

@test "rules: the cluster's chains go in both tables, foreign rules and counters stay" {
  node 'installed
    for program in iptables-nft iptables-legacy ip6tables-nft; do
      "${program}" -N FOREIGN
      "${program}" -A INPUT -j FOREIGN
      "${program}" -A INPUT -p tcp --dport 22 -m comment --comment "like -j KUBE-SERVICES \"quoted\"" -j ACCEPT
      "${program}" -t nat -N KUBE-SERVICES
      "${program}" -t nat -N KUBE-SVC-AAAA
      "${program}" -t nat -N CNI-HOSTPORT-DNAT
      "${program}" -t nat -A KUBE-SERVICES -m comment --comment "default/kubernetes:https" -j KUBE-SVC-AAAA
      "${program}" -t nat -A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
      "${program}" -t nat -A OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
      "${program}" -t mangle -N KUBE-KUBELET-CANARY
      "${program}-save" -c >rules
      sed -i "s/^\[0:0\] -A INPUT -j FOREIGN/[7:77] -A INPUT -j FOREIGN/" rules
      "${program}-restore" -c <rules # ip6tables-nft does not take the counters
    done
    payload/reset.sh --yes
    for program in iptables-nft iptables-legacy ip6tables-nft; do "${program}-save" -c | sed "s/^/${program}: /"; done
    payload/reset.sh --yes'
  local program
  for program in iptables-nft iptables-legacy ip6tables-nft; do
    expect 0 "chains KUBE-* and CNI-* (${program})" "${program}: [0:0] -A INPUT -p tcp -m tcp --dport 22" \
      'like -j KUBE-SERVICES \"quoted\"' 'nothing to do'
    refuse "${program}: :KUBE" "${program}: :CNI" "${program}: [0:0] -A PREROUTING" "${program}: [0:0] -A OUTPUT"
  done
  expect 0 'iptables-nft: [7:77] -A INPUT -j FOREIGN' 'iptables-legacy: [7:77] -A INPUT -j FOREIGN' 'ip6tables-nft: [0:0] -A INPUT -j FOREIGN'
}

@test "network: bridge, pods' interfaces and our routes go; others of every kind stay" {
  node 'installed
    ip link add cni0 type bridge
    ip link add br-user type bridge
    ip link add veth1 type veth peer name pod1
    ip link set veth1 master cni0
    ip link add veth2 type veth peer name pod2
    ip link set veth2 master br-user
    ip link add flannel.1 type bridge
    ip link add cilium_host type veth peer name cilium_net
    ip addr add 10.1.0.1/24 dev br-user
    ip link set br-user up
    ip route add 10.244.2.0/24 via 10.1.0.2 proto 98
    ip route add 10.244.3.0/24 via 10.1.0.2
    payload/reset.sh --yes
    echo "== state"; ip -o link; ip route
    ip link del flannel.1; payload/reset.sh --yes'
  expect 0 'flannel.1 stays: it is no vxlan' 'removing 1 routes' 'nothing to do'
  output=${output#*== state}
  expect 0 br-user veth2 flannel.1 '10.244.3.0/24 via'
  refuse cni0 veth1 pod1 cilium 10.244.2.0
}

@test "mounts: nested ones are undone in order, a busy one is detached, nothing is deleted through one" {
  node 'installed
    mkdir -p data /var/lib/kubelet/pods/1/volumes/data "/var/lib/kubelet/pods/1/with space" /var/lib/containerd/x /run/containerd/io.containerd.runtime.v2.task/k8s.io/1/rootfs
    echo precious >data/file
    mount --bind data /var/lib/kubelet/pods/1/volumes/data
    mount -t tmpfs none "/var/lib/kubelet/pods/1/with space"
    mount --bind data /run/containerd/io.containerd.runtime.v2.task/k8s.io/1/rootfs
    mkdir /var/lib/kubelet/pods/1/with\ space/deeper
    mount -t tmpfs none "/var/lib/kubelet/pods/1/with space/deeper"
    touch /run/netns/cni-1 /run/netns/cni-2 /run/netns/of-the-user
    unshare --net=/run/netns/cni-1 true
    unshare --net=/run/netns/of-the-user true
    (cd /var/lib/kubelet/pods/1/volumes/data && exec sleep 600) &
    sleep 0.3
    payload/reset.sh --yes
    grep -c -E "kubelet|/run/containerd|cni-" /proc/self/mountinfo || true
    cat data/file; ls /run/netns; ls -d /var/lib/kubelet || true
    payload/reset.sh --yes; kill %1'
  expect 0 'is busy and is detached' $'\n0\nprecious\nof-the-user\n' "cannot access '/var/lib/kubelet'" 'actions, 0 failed' 'nothing to do'
}

@test "mounts: one that cannot be undone keeps what is below it, and is told at the end" {
  node 'installed
    mkdir -p data bin; echo precious >data/file
    mount --bind data /var/lib/kubelet/pods/1/volumes/data
    printf "#!/bin/bash\nexit 32\n" >bin/umount; chmod +x bin/umount
    status=0; PATH=${PWD}/bin:${PATH} payload/reset.sh --yes || status=$?
    echo "status ${status}"; cat /var/lib/kubelet/pods/1/volumes/data/file; ls -d /etc/kubernetes || true
    payload/reset.sh --yes; cat data/file'
  expect 0 'still mounted, so /var/lib/kubelet is not removed' 'not done: unmounting /var/lib/kubelet/pods/1/volumes/data' 'not done: removing /var/lib/kubelet' \
    $'status 1\nprecious' "cannot access '/etc/kubernetes'" 'actions, 0 failed'
  [[ ${lines[-1]} == precious ]]
}

@test "a network namespace that somebody else's process is in stays" {
  node 'installed
    touch /run/netns/cni-used
    unshare --net=/run/netns/cni-used sleep 600 &
    sleep 0.3
    payload/reset.sh --yes; ls /run/netns; kill %1'
  expect 0 '/run/netns/cni-used stays' $'\ncni-used'
}

@test "processes: shims of k8s.io with all below them, kubelet and balancer end; others go on" {
  node 'installed
    printf "#!/bin/bash\nsleep 601 &\n(sleep 602 & wait) &\nwait\n" >containerd-shim-runc-v2
    printf "#!/bin/bash\nsleep 603 &\nwait\n" >lb-probe
    chmod +x containerd-shim-runc-v2 lb-probe
    mkdir -p "${RELEASE}/bin" ; mv lb-probe "${RELEASE}/bin/"
    setsid ./containerd-shim-runc-v2 -namespace k8s.io -id 1 &
    setsid ./containerd-shim-runc-v2 -namespace moby -id 2 &
    /usr/local/bin/kubelet 604 &
    "${RELEASE}/bin/lb-probe" &
    bash -c "exec -a \"nginx: master process nginx -c /etc/cluster-installer/nginx.conf\" sleep 605" &
    bash -c "exec -a \"nginx -c /etc/nginx/nginx.conf\" sleep 606" &
    sleep 0.5
    payload/reset.sh --yes
    echo "== left"; ps -eo args | grep -E "sleep|shim|nginx|604|probe" | grep -v grep | sort
    ls -d /var/lib/containerd
    kill -9 %2 %6; sleep 0.2; pkill -9 -f "sleep 60" || true'
  expect 0 'killing 4 processes of pods' '/var/lib/containerd stays: containers of somebody else' 'actions, 0 failed'
  output=${output#*== left}
  expect 0 '-namespace moby' 'nginx -c /etc/nginx/nginx.conf' 'sleep 601' '/var/lib/containerd'
  refuse k8s.io 'kubelet 604' cluster-installer
  [[ $(grep -c 'sleep 601' <<<"${output}") == 1 ]]
}

@test "containers of a real containerd are removed by it, others' in it stay" {
  export CGROUP=reset-bats-$$
  command -v containerd >/dev/null && command -v runc >/dev/null || skip 'containerd and runc are not installed'
  node 'installed
    mkdir -p /run/containerd rootfs
    printf "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n" >config.toml
    containerd --config config.toml >containerd.log 2>&1 &
    for _ in {1..100}; do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
    ldd /bin/sleep | grep -oE "/[^ ]+" | xargs -I{} cp --parents -L {} rootfs
    cp --parents -L /bin/sleep rootfs
    for namespace in k8s.io moby; do
      ctr -n "${namespace}" run --detach --cgroup "/${CGROUP}/${namespace}" --rootfs "${PWD}/rootfs" "of-${namespace}" /bin/sleep 600 || { cat containerd.log; exit 9; }
    done
    payload/reset.sh --yes
    for namespace in k8s.io moby; do ctr -n "${namespace}" tasks list | sed "s/^/${namespace}: /"; ctr -n "${namespace}" containers list --quiet; done
    ps -eo args | grep -c "[c]ontainerd-shim.*k8s.io" || true
    ctr -n moby tasks delete --force of-moby >/dev/null
    kill %1'
  expect 0 'killing container of-k8s.io' 'removing container of-k8s.io' 'moby: of-moby' $'\n0' '/var/lib/containerd stays: containers of somebody else' 'actions, 0 failed'
  refuse 'k8s.io: of-k8s.io'
}

@test "a vendor's containerd keeps running and keeps its files" {
  node 'installed
    printf "[Unit]\nDescription=vendor\n" >/etc/systemd/system/containerd.service
    echo "version = 2" >/etc/containerd/config.toml
    printf "#!/bin/bash\n" >/usr/local/bin/containerd; chmod +x /usr/local/bin/containerd
    payload/reset.sh --yes; ls /etc/systemd/system/containerd.service /etc/containerd/config.toml; ls -d /var/lib/containerd'
  expect 0 "/var/lib/containerd stays: it is the vendor's" /etc/systemd/system/containerd.service /etc/containerd/config.toml
  refuse 'stopping containerd' 'cannot access'
}

@test "half a payload: lib that is missing, half deleted, or broken" {
  node 'for damage in "rm -r payload/lib" "rm -f payload/lib/log.sh" "echo if >>payload/lib/utils.sh" "printf exit >payload/lib/utils.sh"; do
      installed; rm -rf upper/payload; cp -a payload upper/saved
      ${SHELL:-bash} -c "${damage}"
      payload/reset.sh --yes; ls -d /etc/kubernetes || true
      rm -rf payload; mv upper/saved payload; rm -rf /opt/cluster-installer /usr/local/bin/of-the-user
    done'
  expect 0
  [[ $(grep -c "cannot access '/etc/kubernetes'" <<<"${output}") == 4 ]]
  [[ $(grep -c 'actions, 0 failed' <<<"${output}") == 4 ]]
}

@test "a half-installed node: some files only, no tools at all in the payload" {
  node 'mkdir -p /etc/kubernetes/pki /var/lib/kubelet; echo "# BEGIN cluster-installer nodes" >>/etc/hosts
    rm -rf payload/components payload/bin; payload/reset.sh --yes; ls -d /etc/kubernetes /var/lib/kubelet || true; grep -c BEGIN /etc/hosts || true; payload/reset.sh'
  expect 0 "cannot access '/etc/kubernetes'" $'\n0\n' 'nothing to do'
}

@test "--dry-run changes nothing" {
  node 'installed
    iptables-nft -t nat -N KUBE-SERVICES; ip link add cni0 type bridge; mkdir data; mount --bind data /var/lib/kubelet/pods
    state >before; payload/reset.sh --dry-run; payload/reset.sh --dry-run --purge; state >after; diff before after && echo unchanged'
  expect 0 unchanged 'would: removing /etc/kubernetes' 'would: removing 1 chains' 'would: removing cni0' 'would: unmounting /var/lib/kubelet/pods' \
    'would: removing the cluster' 'would: removing /opt/cluster-installer: the releases' 'nothing was changed'
}

@test "options: what is kept, and purged; a script that removes itself" {
  node 'installed; payload/reset.sh --yes --keep-images; ls -d /var/lib/containerd "${RELEASE}"'
  expect 0 $'\n/var/lib/containerd' 'actions, 0 failed'
  refuse 'cannot access'
  node 'installed; "${RELEASE}/reset.sh" --yes --purge; ls -d /opt/cluster-installer /var/log/cluster-installer || true; ls /etc/cluster/cluster.env'
  expect 0 "cannot access '/opt/cluster-installer'" "cannot access '/var/log/cluster-installer'" /etc/cluster/cluster.env 'actions, 0 failed'
  node 'installed; payload/reset.sh --yes --purge --keep-releases; ls -d "${RELEASE}"'
  expect 0 /opt/cluster-installer/releases/aaaa
  refuse 'cannot access'
}

@test "without a terminal it wants --yes; on one it asks" {
  node 'installed; state >before; payload/reset.sh </dev/null || echo "status $?"; state >after; diff before after && echo unchanged'
  expect 0 'there is no terminal to ask on; say --yes' 'status 64' unchanged
  command -v script >/dev/null || skip 'script (util-linux) is not installed'
  node 'installed; mkdir /dev/shm/x 2>/dev/null || true
    for answer in no yes; do echo "${answer}" | script -qec payload/reset.sh /dev/null || echo "status $?"; ls -d /etc/kubernetes || true; done'
  expect 0 'Go on? [yes/no]' 'not confirmed, nothing was changed' 'status 64' "cannot access '/etc/kubernetes'" 'actions, 0 failed'
  node 'payload/reset.sh --all'
  expect 64 'unknown argument --all; usage:'
}
