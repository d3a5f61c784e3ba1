# shellcheck shell=bash
# What stands in front of the API: nginx on every node (CLUSTER_LB=nginx), or an address that moves between the masters (CLUSTER_LB=vip).

LB_DIRECTORY=${LB_DIRECTORY:-/etc/cluster-installer}

#######################################
# Configuration of nginx: a stream over all masters. The list of those that are ready is kept by bin/lb-probe beside it.
# Globals: LB_DIRECTORY CLUSTER_RELEASE CLUSTER_ENDPOINT
#######################################
balancer_nginx() {
  local module
  # shellcheck disable=SC2034 # the template reads them
  local LB_PORT LOAD_MODULE=''
  LB_PORT=$(endpoint_port)
  for module in /usr/lib/nginx/modules /usr/lib64/nginx/modules /usr/share/nginx/modules; do
    if [[ -e ${module}/ngx_stream_module.so ]]; then LOAD_MODULE="load_module ${module}/ngx_stream_module.so;"; fi
  done
  mkdir -p "${LB_DIRECTORY}"
  render_template "${CLUSTER_RELEASE}/templates/nginx.conf" | write_file "${LB_DIRECTORY}/nginx.conf" 0644
  "${CLUSTER_RELEASE}/bin/lb-probe" --once
  nginx -t -q -c "${LB_DIRECTORY}/nginx.conf"
  systemctl --quiet enable cluster-lb.service cluster-lb-probe.service
  service_current cluster-lb.service "${LB_DIRECTORY}/nginx.conf" "${UNIT_DIRECTORY}/cluster-lb.service"
  service_current cluster-lb-probe.service "${CLUSTER_RELEASE}/bin/lb-probe" "${UNIT_DIRECTORY}/cluster-lb-probe.service" "${CLUSTER_ENV_FILE}"
}

#######################################
# Configuration of keepalived on a master: the address is where an API server is ready, and the first of the list is preferred.
# Globals: LB_DIRECTORY CLUSTER_RELEASE CLUSTER_VIP CLUSTER_VIP_INTERFACE CLUSTER_NODE_IP CLUSTER_NAME
#######################################
balancer_vip() {
  local name address priority=200
  # shellcheck disable=SC2034 # the template reads them
  local VIP_INTERFACE=${CLUSTER_VIP_INTERFACE} VIP_PRIORITY=0 VIP_PEERS='' VIP_ROUTER
  [[ -n ${VIP_INTERFACE} ]] || VIP_INTERFACE=$(default_interface_of "${CLUSTER_NODE_IP}")
  while read -r name address; do
    priority=$((priority - 10))
    if [[ ${address} == "${CLUSTER_NODE_IP}" ]]; then VIP_PRIORITY=${priority}; else VIP_PEERS+="        ${address}"$'\n'; fi
  done < <(cluster_masters)
  # Clusters on one network need different router ids, 1 to 255: the last byte of the address, which is theirs alone.
  VIP_ROUTER=${CLUSTER_VIP##*.}
  ((VIP_ROUTER > 0)) || VIP_ROUTER=255
  mkdir -p "${LB_DIRECTORY}"
  render_template "${CLUSTER_RELEASE}/templates/keepalived.conf" | write_file "${LB_DIRECTORY}/keepalived.conf" 0644
  systemctl --quiet enable cluster-vip.service
  service_current cluster-vip.service "${LB_DIRECTORY}/keepalived.conf" "${UNIT_DIRECTORY}/cluster-vip.service"
}

#######################################
# Globals: CLUSTER_LB ROLE
#######################################
node_balancer() {
  case ${CLUSTER_LB} in
    nginx) balancer_nginx ;;
    vip)
      if [[ ${ROLE} == worker ]]; then
        log_info "the address is held by the masters"
      else
        balancer_vip
      fi
      ;;
    *) log_info "CLUSTER_LB=${CLUSTER_LB}: nothing to set up on this node" ;;
  esac
}
