# shellcheck shell=bash
#
# What scripts/test and scripts/demo stand on: a virtual environment with the project in it, and
# GNU screen; for the tests GNU parallel, slirp4netns and pasta too. Sourced, with `set -euo pipefail` in force. Doing it
# twice costs nothing.
#
#   PMR_VENV     the folder of the virtual environment, instead of .venv
#   PMR_PYTHON   the Python to make it with, instead of the first that is new enough

repo=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '%s\n' "$*" >&2; }

# stop MESSAGE NEXT-STEP
stop() {
  say "error: $1"
  say "  next: $2"
  exit 1
}

# quietly COMMAND...: show its output only when it fails.
quietly() {
  local output status=0
  output=$("$@" 2>&1) || status=$?
  if ((status != 0)); then
    say "failed (exit code $status): $*"
    say "$output"
  fi
  return "$status"
}

# Print the first Python that is new enough.
find_python() {
  local candidate
  for candidate in "${PMR_PYTHON:-}" python3 python3.13 python3.12 python3.11 python; do
    if [[ -n $candidate ]] && "$candidate" -c \
      'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done
  stop "no Python 3.11 or newer is on the PATH" \
    "install one, or name it: PMR_PYTHON=/path/to/python $0"
}

works() { [[ -x $1/bin/python ]] && "$1/bin/python" -c '' 2>/dev/null; }

# What an environment was made from: another checkout or other requirements make it stale.
# fingerprint LOCK
fingerprint() {
  printf '%s %s\n' "$repo" "$(cat -- "$repo/pyproject.toml" "$1" | cksum)"
}

# fresh VENV LOCK: say whether the environment has all of this lock, from this checkout.
fresh() {
  local stamp
  stamp=$1/poormanray-$(basename -- "$2").stamp
  works "$1" && [[ -f $stamp && $(<"$stamp") == "$(fingerprint "$2")" ]]
}

# choose_venv LOCK: print the folder to use; a checkout of another user is left as it is.
choose_venv() {
  local beside=$repo/.venv
  if [[ -n ${PMR_VENV:-} ]]; then
    printf '%s\n' "$PMR_VENV"
  elif fresh "$beside" "$1" || [[ -w $beside || (! -e $beside && -w $repo) ]]; then
    printf '%s\n' "$beside"
  else
    local cache=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}
    printf '%s\n' "$cache/poormanray/venv-$(printf '%s' "$repo" | cksum | cut -d ' ' -f 1)"
  fi
}

# make_venv PYTHON VENV: Debian's Python makes one without pip when python3-venv is missing.
make_venv() {
  local options=(--clear)
  mkdir -p -- "$(dirname -- "$2")" 2>/dev/null ||
    stop "cannot make the folder of $2" "choose a folder: PMR_VENV=/path/to/folder $0"
  "$1" -c 'import ensurepip' 2>/dev/null || options+=(--without-pip)
  quietly "$1" -m venv "${options[@]}" "$2"
}

# into_venv PYTHON VENV ARGUMENTS...: pip install, with the environment's own pip or else Python's.
into_venv() {
  local python=$1 venv=$2
  shift 2
  local pip=("$venv/bin/python" -m pip)
  if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    "$python" -c 'import pip' 2>/dev/null ||
      stop "$python has no pip" "apt-get install python3-venv (or your system's package of pip)"
    pip=("$python" -m pip --python "$venv/bin/python")
  fi
  quietly env PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 "${pip[@]}" install --quiet \
    --disable-pip-version-check "$@"
}

# set_up LOCK-NAME: leave `venv` set, with the project and everything of the lock in it.
set_up() {
  local lock=$repo/$1 python
  unset PYTHONHOME PYTHONPATH
  need_screen
  venv=$(choose_venv "$lock")
  if ! fresh "$venv" "$lock"; then
    python=$(find_python)
    say "Installing into $venv ($("$python" -V))"
    works "$venv" || make_venv "$python" "$venv"
    into_venv "$python" "$venv" --require-hashes -r "$lock"
    into_venv "$python" "$venv" --no-deps --no-build-isolation -e "$repo"
    fingerprint "$lock" >"$venv/poormanray-$1.stamp"
  fi
}

as_root() {
  if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

may_be_root() {
  ((EUID == 0)) || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}

# Set `installing` to the system's own command that installs a program.
# package_manager TITLE PACKAGE
package_manager() {
  local name
  for name in apt-get dnf yum apk zypper pacman brew; do
    command -v "$name" >/dev/null || continue
    case $name in
      apt-get) installing=(apt-get install -y "$2") ;;
      apk) installing=(apk add "$2") ;;
      zypper) installing=(zypper --non-interactive install "${2/#parallel/gnu_parallel}") ;;
      pacman) installing=(pacman -S --noconfirm "$2") ;;
      brew) installing=(brew install "$2") ;;
      *) installing=("$name" install -y "$2") ;;
    esac
    return
  done
  stop "$1 is missing, and so is a package manager that this script knows" \
    "install $1, then run $0 again"
}

has_slirp4netns() { command -v slirp4netns >/dev/null; }

has_passt() { command -v pasta >/dev/null; }

has_screen() { command -v screen >/dev/null; }

# Another program of this name (of moreutils) knows no --version.
has_parallel() { [[ $(parallel --version 2>/dev/null </dev/null) == "GNU parallel"* ]]; }

need_screen() { need "GNU screen" screen; }

# Programs that give instances of the local cloud networks of their own; the tests use both.
need_networks() {
  need "slirp4netns" slirp4netns
  need "pasta" passt
}

need_parallel() { need "GNU parallel" parallel; }

# need TITLE PACKAGE: install what `has_PACKAGE` does not find.
need() {
  local installing
  "has_$2" && return
  package_manager "$1" "$2"
  [[ ${installing[0]} == brew ]] || may_be_root ||
    stop "$1 is missing, and installing it needs root" "sudo ${installing[*]}"
  say "Installing $1: ${installing[*]}"
  case ${installing[0]} in
    brew) quietly "${installing[@]}" ;;
    *)
      export DEBIAN_FRONTEND=noninteractive
      [[ ${installing[0]} != apt-get ]] || quietly as_root apt-get update
      quietly as_root "${installing[@]}"
      ;;
  esac || stop "$1 could not be installed" "${installing[*]}"
  hash -r
  "has_$2" || stop "$1 is still missing" "install it by hand"
}
