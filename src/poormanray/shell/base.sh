# shellcheck shell=bash
# shellcheck disable=SC2034 # a send is made of several files; it is checked whole too
# How every script of ours begins. All of them need bash >= 4.2, coreutils and util-linux; what they
# do may write nothing to stdout. An older bash comes no further than these lines.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 402)); then
    echo "PMR0 bash ${BASH_VERSINFO[0]}.${BASH_VERSINFO[1]}"
    exit 0
fi
set -u
umask 077
export LC_ALL=C
PATH=${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}

: "${PMR_ROOT:=/var/lib/pmr}"

checksum() { # text; sets SUM to eight hexadecimal digits
    local word hash=5381
    # Eleven characters at a time are read as one number: a loop over characters costs more than
    # a short task does.
    for word in ${1//[^0-9a-zA-Z ]/z}; do
        while [[ -n $word ]]; do
            hash=$((((hash * 33 + ${#word}) * 31 + 36#${word:0:11}) % 4294967291))
            word=${word:11}
        done
    done
    printf -v SUM %08x "$hash"
}
