#!/usr/bin/env bash
# The demo itself; it needs `pmr` on the PATH. Three instances of the local cloud count the tokens
# of the standard library of this machine's Python; then one process counts them again.
#
# demo.sh                     run it
# demo.sh --record FILE       run it, and write what a person sees to FILE
# demo.sh --commands          print the commands that it runs
#
# With PMR_DEMO_CORRUPT=1 it spoils one result on the way, and must fail.
set -euo pipefail

scripts=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
only_commands=''
record=''

# show WORDS...: print a command as a person would type it, then run it.
show() {
  local words="$*"
  [[ -n $only_commands ]] || printf '\n'
  printf '$ %s\n' "$words"
  [[ -n $only_commands ]] || "$@"
}

stop() {
  printf 'error: %s\n' "$1" >&2
  exit 1
}

python() { "$python" "$@"; }

# A Python that the instances see too: they have the machine's system, but not its homes.
find_python() {
  local base
  base=$("$(dirname -- "$(command -v pmr)")/python" -c \
    'import os, sys; print(os.path.realpath(sys._base_executable))')
  case $base in
    /root/* | /home/* | /tmp/* | /run/* | /var/* | "${HOME:-/root}"/*)
      PATH=/usr/local/bin:/usr/bin:/bin command -v python3 && return
      ;;
  esac
  printf '%s\n' "$base"
}

corrupt() {
  [[ -z ${PMR_DEMO_CORRUPT:-} ]] || sed -i.bak 's/"NAME":/"NAME":1/' results/3.log
}

story() {
  show export PMR_LOCAL=1
  show pmr local up
  show pmr create -n demo -N 3
  show pmr run -n demo -- uname -a
  show python count_tokens.py split parts 24
  show pmr map -n demo parts
  show pmr status -n demo
  show pmr logs -n demo --task 7 --tail 1
  show pmr results -n demo -o results
  [[ -n $only_commands ]] || corrupt
  show python count_tokens.py compare results parts.list
  show python count_tokens.py slowest results
  show pmr terminate -n demo --yes
  show pmr local down
}

# A cloud of its own: one that the user has running is left alone, and so are his settings.
own_surroundings() {
  local name
  for name in $(compgen -e); do
    case $name in AWS_* | PMR_[!D]* | PMR_D[!E]*) unset "$name" ;; esac
  done
  folder=$(mktemp -d "${TMPDIR:-/tmp}/pmr-demo.XXXXXX")
  trap 'end' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  export PMR_LOCAL_DIR=$folder/cloud
  cp -- "$scripts/count_tokens.py" "$folder"
  cd -- "$folder"
}

end() {
  local status=$?
  trap - EXIT
  pmr local down >/dev/null 2>&1 || :
  cd /
  rm -rf -- "$folder"
  ((status == 0)) || printf '\nThe demo failed (exit code %s).\n' "$status" >&2
  exit "$status"
}

# What a person sees: progress is redrawn in place, so only its last state stays; what differs from
# run to run and says nothing is made the same.
normalised() {
  sed -E -e '/^[0-9]+ of [0-9]+ ready, /d' -e '/^[0-9]+\/[0-9]+ done, /d' \
    -e "s|$folder|/tmp/pmr-demo|g" -e 's/by [^ ]+@[^ ]+$/by you@here/' -e 's/ +$//'
}

main() {
  case ${1:-} in
    --commands) only_commands=1 ;;
    --record) record=${2:?a file to write to} ;;
    '') ;;
    *) stop "unknown: $1 (see the first lines of $0)" ;;
  esac
  if [[ -n $only_commands ]]; then
    story
    return
  fi
  command -v pmr >/dev/null || stop "there is no pmr on the PATH; scripts/demo installs it"
  [[ -z $record ]] || record=$(cd -- "$(dirname -- "$record")" && pwd -P)/$(basename -- "$record")
  python=$(find_python)
  own_surroundings
  local started=$SECONDS
  if [[ -n $record ]]; then
    story 2>&1 | tee transcript
    normalised <transcript | sed -e '1{/^$/d}' >"$record"
  else
    story
  fi
  printf '\nThe demo took %s s.\n' "$((SECONDS - started))"
}

main "$@"
