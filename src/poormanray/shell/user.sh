# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# Whose rights tasks have.

user_line() { # name; sets UID_OF, GID_OF, USER_HOME and USER_SHELL, or is false and sets NO_USER
    local entry
    NO_USER=no-user
    # The file first: a directory service may be out of reach just now, and costs a process.
    while IFS=: read -r entry _ UID_OF GID_OF _ USER_HOME USER_SHELL; do
        [[ $entry == "$1" ]] && return
    done </etc/passwd
    entry=$(patiently getent passwd -- "$1") || { (($? == 2)) || NO_USER=unstartable; return 1; }
    IFS=: read -r _ _ UID_OF GID_OF _ USER_HOME USER_SHELL <<<"$entry"
}

run_user() { # sets USER_NAME, USER_HOME, USER_SHELL and the words that switch to the user
    local name groups
    SWITCH=()
    USER_NAME=root
    if ((UID == 0)); then
        # Without a wish: the user that the image's maker meant for logins.
        for name in ${META_user:-ec2-user ubuntu admin root}; do
            user_line "$name" && USER_NAME=$name && break
        done
        [[ -z $META_user || $USER_NAME == "$META_user" ]] || USER_FAULT=$NO_USER
    else
        USER_NAME=$(id -un 2>/dev/null) || USER_NAME=$UID
        # A local cloud of plain processes: everybody there has the rights of who started it.
        [[ -z $META_user ]] || user_line "$META_user" || USER_FAULT=$NO_USER
    fi
    USER_HOME=${HOME:-/root} USER_SHELL=/bin/bash
    user_line "$USER_NAME"
    if ((UID == 0)) && [[ $USER_NAME != root ]]; then
        # Asked for once: each task would ask the machine's directory of users again.
        groups=$(patiently id -G -- "$USER_NAME") || USER_FAULT=unstartable
        # It looks nothing up, as setpriv does for every task; coreutils before 8.23 cannot do it.
        SWITCH=("$(type -P chroot)" "--userspec=+$UID_OF:+$GID_OF" "--groups=+${groups// /,+}" --skip-chdir /)
        ${SWITCH[@]+"${SWITCH[@]}"} true 2>/dev/null ||
            SWITCH=(setpriv --reuid "$UID_OF" --regid "$GID_OF" --groups "${groups// /,}" --)
        # Where nobody can become that user, no task may be told of its exit code.
        [[ -n ${USER_FAULT-} ]] || patiently ${SWITCH[@]+"${SWITCH[@]}"} true || USER_FAULT=unstartable
        USER_IDS=$UID_OF:$GID_OF
    fi
    ((UID != 0)) && USER_HOME=${PMR_HOME:-$USER_HOME}
    [[ -d $USER_HOME ]] || USER_HOME=/
    return 0
}
