# shellcheck shell=bash
# Files with `{{ NAME }}` in them.

#######################################
# Prints a file with each `{{ NAME }}` replaced by the shell variable of that name, as it is: nothing in a value is expanded again.
# Prints all of it or nothing.
# Globals: those that the file names
# Arguments: file
# Outputs: the text; on stderr each undefined variable and malformed placeholder with file and line
# Returns: 1 if there is one, or the file cannot be read
#######################################
render_template() {
  local template__file=$1 template__line template__rest template__out='' template__number=0 template__wrong=0 template__end=$'\n'
  local template__name template__pattern='\{\{[[:blank:]]*([A-Za-z_][A-Za-z0-9_]*)[[:blank:]]*\}\}'
  [[ -f ${template__file} && -r ${template__file} ]] || {
    log_error "${template__file}: no such template"
    return 1
  }
  while IFS= read -r template__rest || { [[ -n ${template__rest} ]] && template__end=; }; do
    template__number=$((template__number + 1)) template__line=
    while [[ ${template__rest} =~ ${template__pattern} ]]; do
      template__name=${BASH_REMATCH[1]}
      template_plain "${template__file}:${template__number}" "${template__rest%%"${BASH_REMATCH[0]}"*}" || template__wrong=1
      template__line+=${template__rest%%"${BASH_REMATCH[0]}"*}
      template__rest=${template__rest#*"${BASH_REMATCH[0]}"}
      if [[ -n ${!template__name+set} ]]; then
        template__line+=${!template__name}
      else
        log_error "${template__file}:${template__number}: the variable ${template__name} is not defined"
        template__wrong=1
      fi
    done
    template_plain "${template__file}:${template__number}" "${template__rest}" || template__wrong=1
    template__out+=${template__line}${template__rest}${template__end}
  done <"${template__file}"
  ((template__wrong == 0)) || return 1
  printf '%s' "${template__out}"
}

#######################################
# Globals: none
# Arguments: file:line, a part of the line that is no placeholder
# Outputs: on stderr, that it holds braces of one
# Returns: 1 if so
#######################################
template_plain() {
  [[ $2 == *'{{'* || $2 == *'}}'* ]] || return 0
  log_error "$1: '{{' or '}}' that is not of the form {{ NAME }}"
  return 1
}
