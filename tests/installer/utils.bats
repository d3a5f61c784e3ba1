#!/usr/bin/env bats
# lib/utils.sh: brings all files together, from wherever it is called, and as often as one likes.

setup() { load lib; }

@test "utils.sh: every function that the roles use is there" {
  lib 'declare -F log_info die retry wait_until download render_template write_file swap_link note_change changes_count config_load config_check config_optional \
    config_validate hosts_block hosts_block_remove checkpoint_open step checkpoint_forget checkpoint_clear undo_push undo_run undo_clear timing_table \
    ip_to_int cidr_contains cidr_overlap port_in_use default_interface_of elf_machine elf_check_tree preflight trap_errors >/dev/null'
  expect 0
  same '' "${output}"
}

@test "utils.sh: twice, by a relative path, and from its own directory" {
  run bash -c "set -Eeuo pipefail; cd '${PAYLOAD}'; . lib/utils.sh; . ./lib/utils.sh; cd lib; . utils.sh; ip_to_int 0.0.0.1"
  expect 0
  same 1 "${output}"
}

@test "utils.sh: sourcing prints nothing, makes no file and leaves no trap and no option changed" {
  cd "${BATS_TEST_TMPDIR}"
  run bash -c "before=\$(shopt -p; set +o; trap -p); . '${PAYLOAD}/lib/utils.sh'; [[ \$(shopt -p; set +o; trap -p) == \"\${before}\" ]]"
  expect 0
  same '' "${output}"
  same '' "$(find "${BATS_TEST_TMPDIR}" -newer "${BATS_TEST_DIRNAME}/lib.bash" -type f -name '*state*')"
  [[ ! -e ${STATE_DIR} ]]
}

@test "lib: no file needs a newer bash than 4.2" {
  run grep -nE '\$\{[A-Za-z_]+@[A-Za-z]\}|local -n|declare -n|wait -n|mapfile -d|readarray -d|EPOCHSECONDS|EPOCHREALTIME|\[-1\]=' -r "${PAYLOAD}/lib" "${PAYLOAD}/roles" "${PAYLOAD}/bin"
  expect 1
}
