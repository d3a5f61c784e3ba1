# shellcheck shell=bash
# For which machine a program is made, told by its first bytes: nothing is run for it.

#######################################
# Globals: none
# Arguments: file
# Outputs: amd64, arm64, or another machine's name; unknown for a damaged ELF file or a machine not listed here; none for any other file
# Returns: 1 if it cannot be read
#######################################
elf_machine() {
  local bytes text machine
  text=$(od -An -v -tu1 -N20 -- "$1" 2>/dev/null) || {
    log_error "elf_machine: $1 cannot be read"
    return 1
  }
  read -r -a bytes <<<"${text//$'\n'/ }"
  if ((${#bytes[@]} < 4)) || [[ ${bytes[*]:0:4} != '127 69 76 70' ]]; then
    printf 'none\n'
    return 0
  fi
  if ((${#bytes[@]} < 20)); then
    printf 'unknown\n'
    return 0
  fi
  if ((bytes[5] == 2)); then machine=$((bytes[18] * 256 + bytes[19])); else machine=$((bytes[19] * 256 + bytes[18])); fi
  # class (1: 32 bits, 2: 64 bits), byte order (1: little, 2: big), machine
  case ${bytes[4]}:${bytes[5]}:${machine} in
    2:1:62) printf 'amd64\n' ;;
    2:1:183) printf 'arm64\n' ;;
    1:1:62) printf 'x32\n' ;;
    1:1:3) printf 'i386\n' ;;
    1:1:40) printf 'arm\n' ;;
    2:1:21) printf 'ppc64el\n' ;;
    2:2:22) printf 's390x\n' ;;
    2:1:243) printf 'riscv64\n' ;;
    *) printf 'unknown\n' ;;
  esac
}

#######################################
# Globals: none
# Arguments: directory, architecture (amd64 or arm64)
# Outputs: on stderr, each ELF file of another architecture
# Returns: 1 if there is one, or the directory cannot be read
#######################################
elf_check_tree() {
  local file machine wrong=0 seen=0
  [[ -d $1 && -r $1 && -x $1 ]] || {
    log_error "elf_check_tree: $1 is no readable directory"
    return 1
  }
  while IFS= read -r -d '' file; do
    seen=1
    machine=$(elf_machine "${file}") || machine=unreadable
    [[ ${machine} != none && ${machine} != "$2" ]] || continue
    log_error "${file} is for ${machine}, not for $2"
    wrong=1
  done < <(find "$1" -type f -print0)
  ((seen == 1)) || log_debug "elf_check_tree: no file in $1"
  return "${wrong}"
}
