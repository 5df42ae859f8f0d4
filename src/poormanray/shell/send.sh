# shellcheck shell=sh
# What the agent runs, with `sh`: unpacks the send that PMR_SEND holds and hands it to bash.
# The exit code is 0 whatever happens: some others mean something else to the agent.

umask 077
# All that anything of ours starts, apart from what it can do without: a line of plain text names
# what is missing (see answer.sh), as there may be nothing to make an envelope with.
missing=
for needed in base64 bash cat chmod chown date dd df du env fallocate flock getent gzip head id ln \
    mkdir mv nproc readlink rm rmdir setpriv setsid sha256sum sort stat sync tail timeout tr wc; do
    command -v "$needed" >/dev/null || missing="$missing $needed"
done
[ -z "$missing" ] || { echo "PMR0 missing$missing" && exit 0; }
for folder in "${TMPDIR-/run}" /run /dev/shm /tmp; do
    [ -d "$folder" ] && [ -w "$folder" ] && break
done
since() { # pid; sets since to when it started, in clock ticks since the machine did
    stat=
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null
    # shellcheck disable=SC2086 # splitting into words is meant
    set -- ${stat##*) }
    since=${20-}
}
for old in "$folder"/pmr.[0-9]*; do
    [ -e "$old" ] || continue
    # Left by a command that the agent killed; its process id may be another's by now.
    pid=${old##*/pmr.}
    since "${pid%-*}"
    [ "$old" = "$folder/pmr.${pid%-*}-$since" ] || rm -rf "$old"
done
since $$
box=$folder/pmr.$$-$since
[ ! -e "$box" ] || rm -rf "$box"
if [ -n "$PMR_WITH_DATA" ]; then
    # What comes with it is cut out of a file.
    mkdir "$box" || exit 0
    base64 -d <<END | gzip -dc >"$box/send"
$PMR_SEND
END
    bash "$box/send" </dev/null
else
    # shellcheck disable=SC2016 # it is for bash to expand
    base64 -d <<END | bash -c 'eval "$(gzip -dc)" </dev/null' "$box/send"
$PMR_SEND
END
fi
[ ! -e "$box" ] || rm -rf "$box"
exit 0
