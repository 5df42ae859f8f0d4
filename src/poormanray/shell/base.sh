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
