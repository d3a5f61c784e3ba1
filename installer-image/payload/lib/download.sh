# shellcheck shell=bash
# Files from an HTTP server, known by their sum.

DOWNLOAD_ATTEMPTS=${DOWNLOAD_ATTEMPTS:-5}
DOWNLOAD_DELAY=${DOWNLOAD_DELAY:-2}
DOWNLOAD_STALL=${DOWNLOAD_STALL:-30} # seconds without data after which an attempt is given up

#######################################
# Whether a file has a sum.
# Globals: none
# Arguments: file, sha256
# Returns: 1 if not
#######################################
download_matches() {
  local sum
  [[ -f $1 ]] || return 1
  sum=$(sha256sum -- "$1") || return 1
  [[ ${sum#\\} == "$2 "* ]]
}

#######################################
# One attempt. A server that cannot go on in the middle, or a part that is longer than the file, makes it begin anew.
# Globals: DOWNLOAD_STALL
# Arguments: URL, partial file, options of curl...
# Returns: curl's exit code
#######################################
download_once() {
  local url=$1 partial=$2 status=0
  shift 2
  set -- "$@" --fail --silent --show-error --location --globoff --connect-timeout 10 --speed-limit 1 --speed-time "${DOWNLOAD_STALL}" --output "${partial}"
  if [[ -s ${partial} ]]; then
    curl "$@" --continue-at - -- "${url}" 2>/dev/null || status=$?
    ((status == 22 || status == 33 || status == 36)) || return "${status}"
    rm -f -- "${partial}"
  fi
  curl "$@" -- "${url}"
}

#######################################
# Fetches a file, unless it is there. What an attempt that broke off has fetched is used by the next one, also in another run.
# Globals: DOWNLOAD_ATTEMPTS DOWNLOAD_DELAY DOWNLOAD_STALL
# Arguments: URL, sha256, target, file with the CA of the server (optional)
# Outputs: a line when it is there; on stderr, why it is not. Names and passwords in the URL are not shown.
# Returns: 1 if it cannot be had or has another sum (nothing is left then); exits 64 on wrong use
#######################################
download() {
  local url=${1-} sum=${2-} target=${3-} partial=${3-}.partial shown resumed=no options=()
  [[ -n ${url} && ${target} == /* && ${sum} =~ ^[0-9a-f]{64}$ ]] || die 64 "download: URL, sha256 (64 hex digits) and an absolute target must be given"
  shown=${url%%\?*}
  [[ ! ${shown} =~ ^([a-z]+://)[^/@]*@(.*)$ ]] || shown=${BASH_REMATCH[1]}${BASH_REMATCH[2]}
  ! download_matches "${target}" "${sum}" || return 0
  [[ -z ${4-} ]] || options+=(--cacert "$4")
  mkdir -p -- "${target%/*}/"
  [[ ! -s ${partial} ]] || resumed=yes
  if ! download_matches "${partial}" "${sum}"; then
    retry --attempts "${DOWNLOAD_ATTEMPTS}" --delay "${DOWNLOAD_DELAY}" -- download_once "${url}" "${partial}" ${options[@]+"${options[@]}"} || {
      log_error "cannot download ${shown} (reason above)"
      return 1
    }
    if [[ ${resumed} == yes ]] && ! download_matches "${partial}" "${sum}"; then # the part was of another file, or damaged
      rm -f -- "${partial}"
      retry --attempts "${DOWNLOAD_ATTEMPTS}" --delay "${DOWNLOAD_DELAY}" -- download_once "${url}" "${partial}" ${options[@]+"${options[@]}"} || return 1
    fi
    if ! download_matches "${partial}" "${sum}"; then
      rm -f -- "${partial}"
      log_error "${shown} has another sha256 than the expected ${sum}: it was changed or damaged, and was thrown away"
      return 1
    fi
  fi
  atomic_sync "${partial}"
  mv -fT -- "${partial}" "${target}"
  log_info "downloaded ${shown}"
}
