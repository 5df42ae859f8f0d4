#!/bin/sh
# Runs GNU screen in an instance that has only one user id.
#
# As root, screen insists on giving its terminal to the group "tty", which does not exist in such
# an instance; as anybody else it only tries. So screen runs as user 1, who is the same user of
# the machine under another number, and the command in its window runs as user 0 again.
set -u

own=$(dirname -- "$(readlink -f -- "$0")")
real=
IFS=:
for folder in $PATH; do
    if [ -x "$folder/screen" ] && [ "$(readlink -f -- "$folder")" != "$own" ]; then
        real=$folder/screen
        break
    fi
done
unset IFS
if [ -z "$real" ]; then
    echo "screen: command not found" >&2
    exit 127
fi

as_other() {
    exec unshare --map-user=1 --map-group=1 -- "$@"
}

# Finds where the command of a new session begins: after the options and their arguments.
session=no
words=0
skip=no
for word in "$@"; do
    if [ "$skip" = yes ]; then
        skip=no
    else
        case $word in
            -X | -ls | -list | -wipe | -v) session=no; break ;;
            -Logfile) skip=yes ;;
            -*m*[ScehpstT]) session=yes; skip=yes ;;
            -*[ScehpstT]) skip=yes ;;
            -*m*) session=yes ;;
            -*) ;;
            *) break ;;
        esac
    fi
    words=$((words + 1))
done
if [ "$session" = no ] || [ "$words" -ge $# ]; then
    as_other "$real" "$@"
fi

# Rotates the arguments once around, adding the way back to user 0 before the command.
count=$#
at=0
while [ "$at" -lt "$count" ]; do
    if [ "$at" -eq "$words" ]; then
        set -- "$@" unshare --map-user=0 --map-group=0 --
    fi
    word=$1
    shift
    set -- "$@" "$word"
    at=$((at + 1))
done
as_other "$real" "$@"
