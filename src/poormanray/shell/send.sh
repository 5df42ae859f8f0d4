# shellcheck shell=sh
# What the agent runs, with `sh`: unpacks the send that PMR_SEND holds and hands it to bash.
# The exit code is 0 whatever happens: some others mean something else to the agent.

umask 077
for folder in "${TMPDIR-/run}" /run /dev/shm /tmp; do
    [ -d "$folder" ] && [ -w "$folder" ] && break
done
for old in "$folder"/pmr.[0-9]*; do
    # Left by a command that the agent killed.
    [ ! -e "$old" ] || kill -0 "${old##*.}" 2>/dev/null || rm -rf "$old"
done
box=$folder/pmr.$$
if ! mkdir "$box" 2>/dev/null; then
    rm -rf "$box"
    mkdir "$box" || exit 0
fi
base64 -d <<END | gzip -dc >"$box/send"
$PMR_SEND
END
bash "$box/send" </dev/null
rm -rf "$box"
exit 0
