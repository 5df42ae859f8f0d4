# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# Whose rights tasks have.

user_line() { # name; sets UID_OF, GID_OF, USER_HOME and USER_SHELL, or is false and sets NO_USER
    local entry
    NO_USER=no-user
    # The file first: a directory service may be out of reach just now, and costs a process.
    listed_user "$1" && return
    entry=$(patiently getent passwd -- "$1") || { (($? == 2)) || NO_USER=unstartable; return 1; }
    IFS=: read -r _ _ UID_OF GID_OF _ USER_HOME USER_SHELL <<<"$entry"
}

listed_user() { # name; like user_line, by the machine's own file alone
    local entry
    while IFS=: read -r entry _ UID_OF GID_OF _ USER_HOME USER_SHELL; do
        [[ $entry == "$1" ]] && return
    done </etc/passwd
    return 1
} 2>/dev/null

same_user() { # at a task's start: whom it is to run as is still who that was
    local UID_OF GID_OF USER_HOME USER_SHELL
    # One of a directory is not asked for again: it may be out of reach just now.
    [[ -z ${USER_LISTED-} ]] || { listed_user "$USER_NAME" && [[ $UID_OF:$GID_OF == "$USER_LISTED" ]]; }
}

run_user() { # sets USER_NAME, USER_HOME, USER_SHELL and the words that switch to the user
    local name groups usual=
    SWITCH=()
    USER_NAME=root
    # A local cloud of plain processes: everybody there has the rights of who started it.
    local switches=$((UID == 0)) && [[ -z ${PMR_HOST_MARK-} ]] || switches=0
    if ((switches)); then
        # Without a wish: the user that the image's maker meant for logins. Once there was one, no
        # task runs as another because that one has vanished.
        { read -r usual <"$PMR_ROOT/login-user"; } 2>/dev/null
        for name in ${META_user:-${usual:-ec2-user ubuntu admin root}}; do
            user_line "$name" && USER_NAME=$name && break
        done
        [[ -z $META_user || $USER_NAME == "$META_user" ]] || USER_FAULT=$NO_USER
        [[ -n $META_user || -z $usual || $USER_NAME == "$usual" ]] || USER_FAULT=$NO_USER:$usual
        [[ -n $META_user || -n $usual || $USER_NAME == root ]] ||
            { printf '%s\n' "$USER_NAME" >"$PMR_ROOT/login-user"; } 2>/dev/null
    else
        USER_NAME=$(id -un 2>/dev/null) || USER_NAME=$UID
        [[ -z $META_user ]] || user_line "$META_user" || USER_FAULT=$NO_USER
    fi
    USER_HOME=${HOME:-/root} USER_SHELL=/bin/bash
    user_line "$USER_NAME"
    if ((switches)) && [[ $USER_NAME != root ]]; then
        listed_user "$USER_NAME" && USER_LISTED=$UID_OF:$GID_OF
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
    ((switches)) || USER_HOME=${PMR_HOME:-$USER_HOME}
    [[ -d $USER_HOME ]] || USER_HOME=/
    return 0
}
