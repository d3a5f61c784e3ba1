# shellcheck shell=bash
# Marked blocks in /etc/hosts: `# BEGIN cluster-installer NAME` to `# END cluster-installer NAME`.

#######################################
# Puts or replaces a block where it was, else at the end. What is between the marks is the installer's and is replaced. If a mark
# was lost, lines of the lost block are those whose every name the new block has; all others are the user's and stay.
# Globals: HOSTS_FILE CLUSTER_CHANGES
# Arguments: name
# Inputs: its lines on stdin; none: the block is removed
# Outputs: a line if the file changed
# Returns: 1 if the file cannot be written; exits 64 if the name is none
#######################################
hosts_block() {
  local name=${1-} file=${HOSTS_FILE:-/etc/hosts} lines old new
  [[ ${name} =~ ^[a-z0-9-]+$ ]] || die 64 "hosts_block: '${name}' is no name of a block"
  lines=$(cat)
  [[ ! -L ${file} ]] || file=$(readlink -f -- "${file}")
  old=
  [[ ! -e ${file} ]] || old=$(cat -- "${file}" && printf x) || return 1
  old=${old%x}
  new=$(printf '%s' "${old}" | HOSTS_LINES=${lines} hosts_edit "${name}" && printf x) || return 1
  new=${new%x}
  [[ ${new} != "${old}" ]] || return 0
  hosts_replace "${file}" "${old}" "${new}" || return 1
  log_info "written the block '${name}' of ${file}"
  note_change "written the block ${name} of ${file}"
}

#######################################
# Globals: HOSTS_FILE CLUSTER_CHANGES
# Arguments: name
# Returns: as hosts_block
#######################################
hosts_block_remove() {
  hosts_block "$@" </dev/null
}

#######################################
# Edits the text of a hosts file.
# Globals: HOSTS_LINES (environment; the block's lines)
# Arguments: name
# Inputs: the text
# Outputs: the new text
#######################################
hosts_edit() {
  awk -v name="$1" '
    function lost(line, words, count, i) { # every name of the line is a name of the new block
      sub(/#.*/, "", line)
      count = split(line, words, /[ \t\r]+/)
      if (count < 2) return 0
      for (i = 2; i <= count; i++) if (words[i] != "" && !(words[i] in names)) return 0
      return words[1] != ""
    }
    function block() {
      if (lines != "" && !placed) text[++kept] = begin "\n" lines "\n" end
      placed = 1
    }
    BEGIN {
      begin = "# BEGIN cluster-installer " name; end = "# END cluster-installer " name; lines = ENVIRON["HOSTS_LINES"]
      count = split(lines, all, "\n")
      for (i = 1; i <= count; i++) { n = split(all[i], words, /[ \t]+/); for (j = 2; j <= n; j++) names[words[j]] = 1 }
    }
    { line = $0; sub(/[ \t\r]+$/, "", line); row[NR] = $0; bare[NR] = line }
    END {
      for (i = 1; i <= NR; i++) {
        if (bare[i] == begin) {
          for (j = i + 1; j <= NR && bare[j] !~ /^# (BEGIN|END) cluster-installer /; j++) { }
          block()
          if (j <= NR && bare[j] == end) { i = j; continue } # a block as it should be
          for (k = i + 1; k < j; k++) if (!lost(row[k])) text[++kept] = row[k]
          i = j - 1
        } else if (bare[i] == end) {
          while (kept > 0 && lost(text[kept])) kept--
          block()
        } else text[++kept] = row[i]
      }
      block()
      for (i = 1; i <= kept; i++) print text[i]
    }'
}

#######################################
# Replaces a file, with the same mode, owner and label. One that is a mount of its own, as in a container, cannot be renamed to.
# Globals: none
# Arguments: file, its text, new text
# Outputs: on stderr, why it cannot be
# Returns: 1 if so; the file is as it was then
#######################################
hosts_replace() {
  local file=$1 directory=${1%/*} ATOMIC_TEMPORARY
  if [[ -w ${directory}/ ]]; then
    atomic_temporary "${file}" || return 1
    printf '%s' "$3" | atomic_fill "${ATOMIC_TEMPORARY}" 0644 || {
      log_error "${file} was not written and is as it was"
      return 1
    }
    # the attributes make it old, too: touch
    if { [[ ! -e ${file} ]] || cp -a --attributes-only -- "${file}" "${ATOMIC_TEMPORARY}"; } && touch -- "${ATOMIC_TEMPORARY}" &&
      mv -fT -- "${ATOMIC_TEMPORARY}" "${file}" 2>/dev/null; then
      atomic_sync "${directory}/"
      return 0
    fi
    rm -f -- "${ATOMIC_TEMPORARY}"
  fi
  if ! printf '%s' "$3" | dd of="${file}" conv=fsync bs=64k status=none; then
    printf '%s' "$2" | dd of="${file}" conv=fsync bs=64k status=none || :
    log_error "${file} was not written"
    return 1
  fi
}
