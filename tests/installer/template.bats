#!/usr/bin/env bats
# lib/template.sh

setup() {
  load lib
  FILE=${BATS_TEST_TMPDIR}/file.conf
}

# Writes the template from the arguments, one line each.
template() { printf '%s\n' "$@" >"${FILE}"; }

@test "render_template: names with and without blanks, several in a line, none" {
  template 'a {{ NAME }} b {{NAME}}{{  OTHER  }}' 'plain $NAME ${NAME} $(x) \ & { } {NAME}' ''
  NAME=x OTHER='' lib 'render_template "$1"' "${FILE}"
  expect 0
  same $'a x b x\nplain $NAME ${NAME} $(x) \\ & { } {NAME}' "${output}"
}

@test "render_template: values go in as they are, table" {
  local value
  template '<{{ NAME }}>'
  for value in 'a&b' 'back\slash\1\n' '$(touch /tmp/never) `x` ${HOME}' '{{ NAME }}' '{{ OTHER }} }}' '* ? [a]' "quote ' \"" '/' '%s%n' $'two\nlines' '  blanks  ' 'é'; do
    NAME=${value} lib 'render_template "$1"' "${FILE}"
    expect 0
    same "<${value}>" "${output}"
  done
}

@test "render_template: a last line without newline, an empty file, carriage returns" {
  printf 'a\r\n{{ NAME }}' >"${FILE}"
  NAME=x lib 'render_template "$1" | od -An -c | tr -d " "' "${FILE}"
  same 'a\r\nx' "${output}"
  : >"${FILE}"
  lib 'render_template "$1"' "${FILE}"
  expect 0
  same '' "${output}"
}

@test "render_template: every undefined variable is told with file and line, and nothing is printed" {
  template 'fine {{ HOME }}' '{{ NOT_ONE }}' '' 'x {{ HOME }} {{ NOT_TWO }}'
  lib 'render_template "$1" 2>&3' "${FILE}" 3>&2
  run bash -c "set -Eeuo pipefail; . '${PAYLOAD}/lib/utils.sh'; render_template '${FILE}' 2>'${FILE}.err'"
  expect 1
  same '' "${output}"
  grep -q "${FILE}:2: the variable NOT_ONE is not defined" "${FILE}.err"
  grep -q "${FILE}:4: the variable NOT_TWO is not defined" "${FILE}.err"
  same 2 "$(wc -l <"${FILE}.err")"
}

@test "render_template: malformed placeholders, table" {
  local row
  for row in '{{ NA-ME }}' '{{ }}' '{{ 1A }}' '{{ NAME' 'NAME }}' '{{ HOME }} }}' '{{ {{ HOME }} }}' '{{ HOME | x }}'; do
    template ok "${row}"
    lib 'render_template "$1"' "${FILE}"
    expect 1 "${FILE}:2: "
  done
}

@test "render_template: no such file, a directory" {
  lib 'render_template "$1"' /no/such
  expect 1 '/no/such: no such template'
  lib 'render_template "$1"' "${BATS_TEST_TMPDIR}"
  expect 1 'no such template'
}

@test "render_template: shell variables count as well as exported ones, and local ones of the caller" {
  template '{{ A }} {{ B }}'
  lib 'A=1; f() { local B=2; render_template "$1"; }; f "$1"' "${FILE}"
  same '1 2' "${output}"
}

@test "render_template: a failure in front of write_file leaves the old file" {
  template '{{ NOT_THERE }}'
  echo old >"${BATS_TEST_TMPDIR}/target"
  lib 'render_template "$1" | write_file "$2" 0644' "${FILE}" "${BATS_TEST_TMPDIR}/target"
  expect 1 'NOT_THERE is not defined' 'nothing came to write'
  same old "$(<"${BATS_TEST_TMPDIR}/target")"
}

@test "templates of the payload have no malformed placeholder" {
  local file
  for file in "${PAYLOAD}"/templates/*; do
    run bash -c ". '${PAYLOAD}/lib/utils.sh'; render_template '${file}'"
    refuse 'that is not of the form'
  done
}
