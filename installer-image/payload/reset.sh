#!/bin/bash
# Takes the cluster off this node: what cluster-installer and Kubernetes put here is stopped, unmounted and removed. Others' things stay.
#
# Usage: reset.sh [--yes] [--dry-run] [--keep-images] [--keep-releases] [--purge]
#   --yes            do not ask
#   --dry-run        say what would be done, change nothing
#   --keep-images    keep the container images (/var/lib/containerd)
#   --purge          remove the releases below /opt/cluster-installer and the logs, too
#   --keep-releases  keep the releases even with --purge
#
# It stands alone: a half-installed node, a half-deleted payload or a payload without tools is enough. It goes on after a failure.
# Exit codes: 0 done, or nothing to do; 1 something could not be done (listed at the end; run it again); 64 wrong usage, or not confirmed.
#
# It goes on after a failure, so functions run with errexit off on purpose (SC2310), and most by their name, through act (SC2317).
# shellcheck disable=SC2310,SC2317
set -Eeuo pipefail
export LC_ALL=C PATH=${PATH}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

RESET_HOME=/opt/cluster-installer
MARK='# cluster-installer' # begins the first line of every file of ours that can hold a comment
UNITS=/etc/systemd/system
CONTAINERS=/var/lib/containerd
# For awk, on lines of processes(): a shim is a program of that name, or a script run by its interpreter.
# shellcheck disable=SC2016 # awk's fields
IS_SHIM='function is_shim() { return $3 ~ /\/containerd-shim/ || $4 ~ /(^|\/)containerd-shim/ || ($3 ~ /\/(ba|da)?sh$/ && $5 ~ /(^|\/)containerd-shim/) } '
TASKS=/run/containerd/io.containerd.runtime.v2.task
DRY_RUN=no KEEP_IMAGES=no KEEP_RELEASES=no PURGE=no ASSUME_YES=no
OUR_CONTAINERD=no
ACTIONS=0
FAILURES=()

for level in info warn error; do # the payload's logging replaces these, if it is whole
  eval "log_${level}() { printf '%s %-5s reset.sh: %s\n' \"\$(date -u +%Y-%m-%dT%H:%M:%SZ)\" '${level^^}' \"\$*\" >&2; }"
done
UTILS=$(readlink -f -- "${BASH_SOURCE[0]%/*}")/lib/utils.sh
# shellcheck disable=SC2016 # expanded by the inner bash
PROBE='set -Eeuo pipefail; source "$1"; declare -F log_info log_warn log_error >/dev/null; echo whole'
if [[ $(timeout 10 bash -c "${PROBE}" bash "${UTILS}" </dev/null 2>/dev/null || true) == *whole ]]; then
  # shellcheck source=/dev/null
  source "${UTILS}"
fi

# ------------------------------------------------------------------------------------------ means

#######################################
# Does one thing and goes on if it fails. Everything that changes the node goes through here.
# Globals: DRY_RUN ACTIONS FAILURES
# Arguments: what is done and why, command, its arguments
# Outputs: a log line; another if it fails
#######################################
act() {
  local what=$1
  shift
  ACTIONS=$((ACTIONS + 1))
  if [[ ${DRY_RUN} == yes ]]; then
    log_info "would: ${what}"
    return 0
  fi
  log_info "${what}"
  "$@" >&2 </dev/null && return 0
  log_error "failed (exit code $?): ${what}"
  FAILURES+=("${what}")
}

#######################################
# Arguments: file
# Returns: 0 if it is ours by its first line
#######################################
marked() {
  local line=''
  [[ -f $1 ]] || return 1
  IFS= read -r line <"$1" || true
  [[ ${line} == "${MARK}"* ]]
}

#######################################
# Finds a program while it exists: on PATH, or in a release.
# Globals: RESET_HOME
# Arguments: name
# Outputs: its path
# Returns: 1 if it is nowhere
#######################################
tool() {
  local path
  for path in "$(type -P "$1" || true)" "${RESET_HOME}/current/components/"*/"$1" "${RESET_HOME}/releases/"*/components/*/"$1"; do
    [[ -n ${path} && -f ${path} && -x ${path} ]] || continue
    printf '%s\n' "${path}"
    return 0
  done
  return 1
}

#######################################
# Arguments: words for systemctl
# Returns: systemctl's code; 0 if systemd does not run here
#######################################
systemd() {
  local answer
  command -v systemctl >/dev/null || return 0
  answer=$(timeout 120 systemctl "$@" 2>&1) && return 0
  [[ -d /run/systemd/system ]] || return 0
  printf '%s\n' "${answer}"
  return 1
}

#######################################
# Outputs: mount points, one a line, the latest first
#######################################
mount_points() {
  local point points=() index
  while read -r _ _ _ _ point _; do points+=("$(printf '%b' "${point//\\/\\0}")"); done </proc/self/mountinfo
  for ((index = ${#points[@]} - 1; index >= 0; index--)); do printf '%s\n' "${points[index]}"; done
}

#######################################
# Removes a file or a directory. Nothing is removed through a mount: what is mounted below is somebody's data.
# Arguments: path
# Returns: 1 if something is mounted below
#######################################
remove() {
  local point
  while IFS= read -r point; do
    [[ ${point} == "$1"/* ]] || continue
    log_error "${point} is still mounted, so $1 is not removed; unmount it and run reset again"
    return 1
  done < <(mount_points)
  if mountpoint -q -- "$1"; then # a disk of its own stays mounted, empty
    find "$1" -xdev -mindepth 1 -delete
  else
    rm -rf --one-file-system -- "$1"
  fi
}

#######################################
# Arguments: reason, paths... (those that are not there are skipped)
#######################################
remove_all() {
  local reason=$1 path
  shift
  for path; do
    [[ -e ${path} || -L ${path} ]] || continue
    if mountpoint -q -- "${path}" && [[ -z $(find "${path}" -xdev -mindepth 1 -print -quit) ]]; then continue; fi
    act "removing ${path}: ${reason}" remove "${path}"
  done
}

#######################################
# Arguments: directories that are removed if nothing is left in them
#######################################
remove_empty() {
  local directory
  [[ ${DRY_RUN} == no ]] || return 0
  for directory; do
    [[ ! -d ${directory} ]] || rmdir --ignore-fail-on-non-empty -- "${directory}" 2>/dev/null || true
  done
}

#######################################
# Kills processes at once and waits until they are gone.
# Arguments: process ids
# Returns: 1 if one is still there after ten seconds
#######################################
kill_all() {
  local pid left
  kill -KILL "$@" 2>/dev/null || true
  for _ in {1..100}; do
    left=''
    for pid; do
      # A zombie holds nothing any more; reaping it is its parent's.
      ! grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/${pid}/status" || left+=" ${pid}"
    done
    [[ -n ${left} ]] || return 0
    sleep 0.1
  done
  log_error "still there:${left}; a process that hangs in the kernel ends with a reboot only"
  return 1
}

#######################################
# Outputs: "pid parent program command line", one process a line, but for this one and those that it was started by
#######################################
processes() {
  local pid=$$ own=' ' path line word name value
  local -A programs=() parents=()
  while read -r path line; do programs[${path#/proc/}]=${line%% *}; done < <(find /proc/[0-9]*/exe -maxdepth 0 -printf '%h %l\n' 2>/dev/null)
  for path in /proc/[0-9]*; do
    while read -r name value; do
      [[ ${name} != PPid: ]] || parents[${path#/proc/}]=${value}
    done 2>/dev/null <"${path}/status" || true
  done
  while [[ -n ${pid} && ${pid} != 0 ]]; do
    own+="${pid} "
    pid=${parents[${pid}]-}
  done
  for pid in "${!parents[@]}"; do
    line='' word=''
    # A process that ends while it is read makes read fail and leave the word as it was: it is emptied, or this never ends.
    while IFS= read -r -d '' word || [[ -n ${word} ]]; do
      line+=" ${word//$'\n'/ }"
      word=''
    done 2>/dev/null <"/proc/${pid}/cmdline" || true
    [[ ${own} == *" ${pid} "* || -z ${line} ]] || printf '%s %s %s%s\n' "${pid}" "${parents[${pid}]}" "${programs[${pid}]:--}" "${line}"
  done
}

# ------------------------------------------------------------------------------------------ steps

#######################################
# A master that leaves tells the other etcd members, while it can. Best effort: they may be gone.
#######################################
leave_etcd() {
  local kubeadm
  [[ -e /etc/kubernetes/manifests/etcd.yaml && -e /etc/kubernetes/admin.conf ]] || return 0
  kubeadm=$(tool kubeadm) || return 0
  if ! timeout 2 bash -c 'exec 3<>/dev/tcp/127.0.0.1/2379' 2>/dev/null; then
    log_info "etcd does not answer on this node, so its member cannot be removed from here; if other masters stay, see to: etcdctl member list"
    return 0
  fi
  act "removing this node's member from etcd, so that the others keep their quorum" leave_etcd_now "${kubeadm}"
}

#######################################
# Arguments: kubeadm
#######################################
leave_etcd_now() {
  timeout 45 "$1" reset phase remove-etcd-member --kubeconfig=/etc/kubernetes/admin.conf ||
    log_warn "the member could not be removed (exit code $?), as with the last master of a cluster; if other masters stay: etcdctl member list"
}

#######################################
# Outputs: our units that are installed, timers first, containerd last
#######################################
our_units() {
  local file last=''
  for file in "${UNITS}"/*.timer "${UNITS}"/*.service; do
    marked "${file}" || continue
    if [[ ${file} == */containerd.service ]]; then last=${file##*/}; else printf '%s\n' "${file##*/}"; fi
  done
  [[ -z ${last} ]] || printf '%s\n' "${last}"
}

#######################################
# Nothing may start pods or change the configuration any more. A unit that is running under systemd is stopped; containerd later.
#######################################
stop_units() {
  local unit state
  if command -v systemctl >/dev/null; then
    state=$(systemctl show --property=ActiveState cluster-bootstrap.service 2>/dev/null || true)
    [[ ${state} != ActiveState=activating ]] || act "stopping cluster-bootstrap, which is installing" systemd stop cluster-bootstrap.service
  fi
  while IFS= read -r unit; do
    [[ ${unit} == containerd.service ]] || act "stopping ${unit}" systemd stop "${unit}"
  done < <(our_units)
}

#######################################
# Programs of a release that run without a unit, or outlived it.
# Arguments: expression of their command lines, reason
#######################################
stop_leftovers() {
  local pid line found=()
  while read -r pid _ line; do
    if [[ ${line} =~ $1 ]]; then found+=("${pid}"); fi
  done < <(processes)
  ((${#found[@]} == 0)) || act "ending processes ${found[*]}: $2" kill_all "${found[@]}"
}

#######################################
# Kills a container. Those of one pod end each other: one that is gone when its turn comes is what was wanted.
# Arguments: container, words of ctr
# Returns: 1 if it still runs
#######################################
delete_task() {
  local id=$1
  shift
  "$@" tasks delete --force "${id}" 2>/dev/null || ! "$@" tasks list --quiet 2>/dev/null | grep -qx -- "${id}"
}

#######################################
# Removes all pods: by containerd if it answers, and what is left by its processes.
# Globals: TASKS KEEP_IMAGES OUR_CONTAINERD
#######################################
remove_pods() {
  local ctr id words=() pods=()
  if [[ -S /run/containerd/containerd.sock ]] && ctr=$(tool ctr) && timeout 10 "${ctr}" version >/dev/null 2>&1; then
    words=(timeout 30 "${ctr}" --namespace k8s.io)
    for id in $("${words[@]}" tasks list --quiet 2>/dev/null || true); do
      act "killing container ${id:0:13}" delete_task "${id}" "${words[@]}"
    done
    for id in $("${words[@]}" containers list --quiet 2>/dev/null || true); do
      act "removing container ${id:0:13}" "${words[@]}" containers delete "${id}"
    done
    if [[ ${OUR_CONTAINERD} == no && ${KEEP_IMAGES} == no ]]; then
      for id in $("${words[@]}" images list --quiet 2>/dev/null || true); do
        act "removing image ${id}: the vendor's containerd stays" "${words[@]}" images remove "${id}"
      done
    fi
  fi
  mapfile -t pods < <(pod_processes | sort -un)
  ((${#pods[@]} == 0)) || act "killing ${#pods[@]} processes of pods" kill_all "${pods[@]}"
}

#######################################
# Outputs: ids of the shims of Kubernetes' containers, of all that run below them, and of containers whose shim is gone
#######################################
pod_processes() {
  processes | awk "${IS_SHIM}"'
    { parent[$1] = $2 }
    is_shim() && / -namespace k8s\.io( |$)/ { hit[$1] = 1 }
    END {
      for (pid in parent) {
        for (p = pid; p in parent && !(p in hit); p = parent[p]) { }
        if (p in hit) print pid
      }
    }'
  grep -lE '^[0-9]+:[^:]*:/kubepods(\.slice)?(/|$)' /proc/[0-9]*/cgroup 2>/dev/null | cut -d/ -f3 || true
}

#######################################
# Returns: 0 if containers of somebody else, say docker, run on this containerd
#######################################
containerd_is_shared() {
  processes | awk "${IS_SHIM}"'is_shim() && / -namespace / && !/ -namespace k8s\.io( |$)/ { hit = 1 } END { exit !hit }'
}

#######################################
# Whose containerd is it? Ours has our unit or configuration, or there is no other that the files could be of.
# Globals: OUR_CONTAINERD (set) UNITS
#######################################
judge_containerd() {
  local program
  OUR_CONTAINERD=yes
  if marked "${UNITS}/containerd.service" || marked /etc/containerd/config.toml; then return 0; fi
  program=$(readlink -f -- "$(type -P containerd || true)" || true)
  [[ -z ${program} || ${program} == "${RESET_HOME}"/* ]] || OUR_CONTAINERD=no
}

#######################################
# Globals: OUR_CONTAINERD UNITS
#######################################
stop_containerd() {
  if [[ ${OUR_CONTAINERD} == no ]]; then return 0; fi
  ! marked "${UNITS}/containerd.service" || act "stopping containerd.service" systemd stop containerd.service
  stop_leftovers "^${RESET_HOME}/[^ ]*/containerd " "containerd of the cluster, whose unit is gone"
}

#######################################
# Unmounts what kubelet, containerd and the network plugins mounted, the latest first.
# Globals: OUR_CONTAINERD TASKS CONTAINERS
#######################################
unmount_all() {
  local point wanted="^(/var/lib/kubelet/|(/var)?/run/netns/cni-|${TASKS}/k8s\.io/|/run/containerd/io\.containerd\.grpc\.v1\.cri/)"
  if [[ ${OUR_CONTAINERD} == yes ]] && ! containerd_is_shared; then wanted="^(/var/lib/kubelet/|(/var)?/run/netns/cni-|/run/containerd/|${CONTAINERS}/)"; fi
  while IFS= read -r point; do
    [[ ${point} =~ ${wanted} ]] || continue
    if [[ ${point} == */netns/cni-* ]] && netns_is_used "${point}"; then
      log_warn "${point} stays: a process that is no pod of this cluster runs in it"
      continue
    fi
    act "unmounting ${point}" unmount "${point}"
  done < <(mount_points)
  for point in /run/netns/cni-*; do
    [[ -e ${point} ]] || continue
    mountpoint -q -- "${point}" || act "removing ${point}: the name of a pod's network" rm -f -- "${point}"
  done
}

#######################################
# Arguments: file of a network namespace
# Returns: 0 if a process is in it
#######################################
netns_is_used() {
  local number
  number=$(stat -L -c %i -- "$1" 2>/dev/null) || return 1
  grep -qx "${number}" < <(stat -L -c %i /proc/[0-9]*/ns/net 2>/dev/null)
}

#######################################
# Arguments: mount point
#######################################
unmount() {
  umount -- "$1" 2>/dev/null && return 0
  sleep 1 # a process that was killed may just be going
  umount -- "$1" && return 0
  log_warn "$1 is busy and is detached; it is gone when its last user ends"
  umount --lazy -- "$1"
}

#######################################
# Prints what takes the rules of Kubernetes and of CNI out of a rule set and leaves all others untouched.
# Inputs: iptables-save on stdin
# Outputs: input for iptables-restore --noflush; nothing if there are no such rules
#######################################
rules_to_remove() {
  awk '
    function ours(name) { return name ~ /^(KUBE|CNI)-/ }
    function finish() {
      if (chains != "" || rules != "") printf "%s\n%s%s%sCOMMIT\n", table, rules, flush, chains
      rules = flush = chains = ""
    }
    /^\*/ { table = $0 }
    /^:/ { name = substr($1, 2); if (ours(name)) { flush = flush "-F " name "\n"; chains = chains "-X " name "\n" } }
    /^-A / && !ours($2) {
      plain = $0
      gsub(/"([^"\\]|\\.)*"/, "", plain) # a comment may say anything
      if (plain ~ / -[jg] (KUBE|CNI)-/) rules = rules "-D" substr($0, 3) "\n"
    }
    /^COMMIT/ { finish() }'
}

#######################################
# Arguments: name
# Returns: 0 if there is such a network interface; /sys may show those of another network
#######################################
interface() {
  ip link show dev "$1" >/dev/null 2>&1
}

#######################################
# Packet filter rules, in each of the two kernels' tables that a rule may be in.
#######################################
remove_rules() {
  local name variant family save script
  for family in iptables ip6tables; do
    for variant in "${family}-legacy" "${family}-nft" "${family}"; do
      save=${variant}-save
      command -v "${save}" >/dev/null || continue
      if [[ ${variant} == "${family}" ]] && command -v "${family}-nft-save" >/dev/null; then continue; fi
      # Looking at the old tables would make them; without this file, or with nothing in it, there are none.
      if [[ ${variant} == *-legacy && -z $(cat "/proc/net/${family/tables/_tables}_names" 2>/dev/null) ]]; then continue; fi
      script=$("${save}" 2>/dev/null | rules_to_remove) || script=''
      [[ -n ${script} ]] || continue
      act "removing $(grep -c '^-X' <<<"${script}") chains KUBE-* and CNI-* (${variant})" restore_rules "${variant}-restore" "${script}"
    done
  done
  if command -v nft >/dev/null; then
    while read -r _ family name; do
      act "removing nftables' table ${family} ${name} of kube-proxy" nft delete table "${family}" "${name}"
    done < <(nft list tables 2>/dev/null | awk '$3 == "kube-proxy"')
  fi
  if interface kube-ipvs0; then
    if command -v ipvsadm >/dev/null; then
      act "clearing IPVS: its services are kube-proxy's" ipvsadm --clear
    else
      log_warn "kube-proxy used IPVS and ipvsadm is not installed; services stay in the kernel until a reboot"
    fi
  fi
  if command -v ipset >/dev/null; then
    while read -r name; do act "removing ipset ${name} of kube-proxy" ipset destroy "${name}"; done < <(ipset list -name 2>/dev/null | grep '^KUBE-' || true)
  fi
}

#######################################
# Arguments: program, its input
#######################################
restore_rules() {
  "$1" --noflush <<<"$2"
}

#######################################
# Interfaces that pods and their network had, and our routes. One of another kind under such a name is somebody else's.
#######################################
remove_network() {
  local name kind routes
  while read -r name; do
    act "removing ${name}: it led to a pod" ip link delete "${name}"
  done < <(ip -o link show type veth master cni0 2>/dev/null | awk '{ sub("[@:].*", "", $2); print $2 }')
  while read -r name kind; do
    interface "${name}" || continue
    if [[ -n $(ip -o link show type "${kind}" dev "${name}" 2>/dev/null) ]]; then
      act "removing ${name}: the pods' network" ip link delete "${name}"
    else
      log_warn "${name} stays: it is no ${kind}, so it is not of the pods' network"
    fi
  done < <(
    printf '%s\n' 'cni0 bridge' 'kube-bridge bridge' 'kube-ipvs0 dummy' 'flannel.1 vxlan'
    ip -o link show 2>/dev/null | awk '{ sub("[@:].*", "", $2); if ($2 ~ /^cilium_/) print $2, ($2 == "cilium_vxlan" ? "vxlan" : "veth") }'
  )
  routes=$(ip -4 route show proto 98 2>/dev/null | wc -l)
  ((routes == 0)) || act "removing ${routes} routes to the other nodes' pods" ip -4 route flush proto 98
}

#######################################
# State of the network plugins. podman may keep its own in the same places.
#######################################
remove_cni() {
  local path
  if [[ -n $(find /var/lib/cni -mindepth 1 ! -type d ! -path '*/podman*' -print -quit 2>/dev/null) ]]; then
    act "removing addresses that pods had (/var/lib/cni)" find /var/lib/cni -mindepth 1 ! -type d ! -path '*/podman*' -delete
  fi
  if [[ ${DRY_RUN} == no && -d /var/lib/cni ]]; then find /var/lib/cni -depth -type d -empty -delete || true; fi
  for path in /etc/cni/net.d/*; do
    [[ -e ${path} ]] || continue
    if [[ ${path##*/} == 10-cluster.conflist ]] || marked "${path}"; then
      act "removing ${path}: the pods' network" rm -f -- "${path}"
    else
      log_info "${path} stays: cluster-installer did not write it"
    fi
  done
  remove_empty /etc/cni/net.d /etc/cni
}

#######################################
# What Kubernetes keeps on disks: certificates, configuration, etcd's data, volumes, images.
# Globals: OUR_CONTAINERD KEEP_IMAGES CONTAINERS
#######################################
remove_state() {
  local home
  home=$(getent passwd 0 | cut -d: -f6) || home=/root
  ! cmp -s -- "${home}/.kube/config" /etc/kubernetes/admin.conf || act "removing ${home}/.kube/config: it is this cluster's admin.conf" rm -f -- "${home}/.kube/config"
  remove_all "certificates and configuration of Kubernetes" /etc/kubernetes
  remove_all "etcd's data" /var/lib/etcd
  remove_all "kubelet's state" /var/lib/kubelet
  if [[ ${OUR_CONTAINERD} == no ]]; then
    [[ ! -e ${CONTAINERS} ]] || log_info "${CONTAINERS} stays: it is the vendor's containerd's"
  elif containerd_is_shared; then
    log_warn "${CONTAINERS} stays: containers of somebody else run on this containerd"
  else
    [[ ${KEEP_IMAGES} == yes ]] || remove_all "containers and images" "${CONTAINERS}"
    remove_all "containerd's run-time state" /run/containerd
  fi
}

#######################################
# Removes our units; a vendor's of the same name comes into force again.
# Globals: UNITS
#######################################
remove_units() {
  local unit path removed=no
  while IFS= read -r unit; do
    removed=yes
    act "disabling ${unit}" disable_unit "${unit}"
    act "removing ${UNITS}/${unit}" rm -f -- "${UNITS}/${unit}"
  done < <(our_units)
  for path in "${UNITS}"/*.d/*.conf; do
    marked "${path}" || continue
    removed=yes
    act "removing ${path}" rm -f -- "${path}"
    remove_empty "${path%/*}"
  done
  [[ ${removed} == no ]] || act "telling systemd" systemd daemon-reload
}

#######################################
# Takes a unit out of the boot. Also where systemd does not run: its links are removed by hand.
# Globals: UNITS
# Arguments: unit
#######################################
disable_unit() {
  systemd --quiet disable "$1" || log_warn "systemctl disable $1 failed; its links are removed by hand"
  find "${UNITS}" -mindepth 2 -maxdepth 2 -type l -name "$1" -delete
}

#######################################
# Settings of the host that are ours, by their first line or their name.
#######################################
remove_settings() {
  local path
  ! marked /etc/containerd/config.toml || act "removing /etc/containerd/config.toml" rm -f -- /etc/containerd/config.toml
  for path in /etc/containerd/certs.d/*/hosts.toml; do
    marked "${path}" || continue
    act "removing ${path}: how containerd reached the registry" rm -f -- "${path}"
    remove_empty "${path%/*}"
  done
  remove_empty /etc/containerd/certs.d /etc/containerd
  if [[ -f /etc/crictl.yaml && $(sort /etc/crictl.yaml) == $'image-endpoint: unix:///run/containerd/containerd.sock\nruntime-endpoint: unix:///run/containerd/containerd.sock' ]]; then
    act "removing /etc/crictl.yaml" rm -f -- /etc/crictl.yaml
  fi
  remove_all "kernel modules and parameters; those in force stay until a reboot" /etc/modules-load.d/cluster-installer.conf /etc/sysctl.d/90-cluster-installer.conf
  remove_all "the API's balancer" /etc/cluster-installer
  ! grep -qsE '^# (BEGIN|END) cluster-installer ' /etc/hosts || act "removing the cluster's names from /etc/hosts" clean_hosts
}

#######################################
# Takes our blocks out of /etc/hosts. Of a block without its end only the mark goes: which lines are the user's cannot be told.
#######################################
clean_hosts() {
  local scratch
  scratch=$(mktemp /etc/hosts.XXXXXX) || return 1
  awk '
    { line[NR] = $0 }
    END {
      for (i = 1; i <= NR; i++) {
        if (line[i] ~ /^# END cluster-installer /) continue
        if (line[i] ~ /^# BEGIN cluster-installer /) {
          end = line[i]
          sub("BEGIN", "END", end)
          for (j = i + 1; j <= NR && line[j] != end && line[j] !~ /^# BEGIN cluster-installer /; j++) { }
          if (j <= NR && line[j] == end) i = j
          continue
        }
        print line[i]
      }
    }' /etc/hosts >"${scratch}" || return 1
  # Written in place, so that owner, mode and label stay; the file may also be a mount, which cannot be renamed.
  cat -- "${scratch}" >/etc/hosts && rm -f -- "${scratch}"
}

#######################################
# The installer itself comes last, since everything above may use its tools.
# Globals: RESET_HOME PURGE KEEP_RELEASES
#######################################
remove_installer() {
  local path
  remove_all "checkpoints of the installation" /var/lib/cluster-installer /run/cluster-installer
  for path in /opt/cni/bin/* /usr/local/bin/*; do
    [[ -L ${path} && $(readlink -- "${path}") == "${RESET_HOME}"/* ]] || continue
    act "removing ${path}: a link into ${RESET_HOME}" rm -f -- "${path}"
  done
  remove_empty /opt/cni/bin /opt/cni
  remove_all "no release is in force" "${RESET_HOME}/current"
  [[ ${PURGE} == yes ]] || return 0
  remove_all "the installation's logs" /var/log/cluster-installer
  [[ ${KEEP_RELEASES} == yes ]] || remove_all "the releases" "${RESET_HOME}"
}

# ------------------------------------------------------------------------------------------ all of it

#######################################
# Every step, in order.
#######################################
take_off() {
  judge_containerd
  leave_etcd
  stop_units
  stop_leftovers "(^|[ /])${RESET_HOME#/}/[^ ]*/(components/[^ ]*/kubelet|bin/(install|pod-routes|lb-probe|cert-renew))( |\$)" "they are the cluster's"
  stop_leftovers "(nginx|keepalived).* /etc/cluster-installer/" "the API's balancer"
  remove_pods
  stop_containerd
  unmount_all
  remove_rules
  remove_network
  remove_cni
  remove_state
  remove_units
  remove_settings
  remove_installer
}

#######################################
# Says what would be done. For a subshell: nothing is to be done by this one afterwards.
# Globals: DRY_RUN (set) ACTIONS
# Outputs: log lines; on stdout the number of actions
#######################################
show_plan() {
  DRY_RUN=yes
  take_off
  printf '%s\n' "${ACTIONS}"
}

#######################################
# Asks the operator, after showing what would be done.
# Globals: ASSUME_YES
# Returns: exits 64 if the answer is not yes
#######################################
confirm() {
  local answer
  [[ ${ASSUME_YES} == no ]] || return 0
  if [[ ! -t 0 ]]; then
    log_error "this removes the cluster from this node and there is no terminal to ask on; say --yes, or see it first with --dry-run"
    exit 64
  fi
  (show_plan >/dev/null)
  read -r -p "All of this will be done on $(uname -n). Go on? [yes/no] " answer || answer=''
  [[ ${answer} == yes ]] && return 0
  log_error "not confirmed, nothing was changed"
  exit 64
}

main() {
  local failure planned
  while (($#)); do
    case $1 in
      --yes) ASSUME_YES=yes ;;
      --dry-run) DRY_RUN=yes ;;
      --keep-images) KEEP_IMAGES=yes ;;
      --keep-releases) KEEP_RELEASES=yes ;;
      --purge) PURGE=yes ;;
      *)
        log_error "unknown argument $1; usage: reset.sh [--yes] [--dry-run] [--keep-images] [--keep-releases] [--purge]"
        exit 64
        ;;
    esac
    shift
  done
  if ((EUID != 0)); then
    log_error "reset needs root; run it with sudo"
    exit 1
  fi
  cd /
  planned=$(show_plan 2>/dev/null)
  if ((planned == 0)); then
    log_info "nothing to do: no cluster is installed on this node"
  elif [[ ${DRY_RUN} == yes ]]; then
    take_off
    log_info "${ACTIONS} actions; nothing was changed"
  else
    confirm
    take_off
    log_info "reset: ${ACTIONS} actions, ${#FAILURES[@]} failed"
  fi
  if [[ -e /etc/cluster/cluster.env ]]; then
    log_info "/etc/cluster/cluster.env stays, so the next boot installs again; 'systemctl disable cluster-bootstrap' or removing that file prevents it"
  fi
  ((${#FAILURES[@]} == 0)) || for failure in "${FAILURES[@]}"; do log_error "not done: ${failure}"; done
  ((${#FAILURES[@]} == 0)) || log_error "see to the reasons above and run reset again; what is done is not done twice"
  ((${#FAILURES[@]} == 0))
}

# bash reads a script as it goes; this one may remove itself, so nothing stands after its last line.
main "$@" || exit
exit 0
