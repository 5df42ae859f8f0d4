#!/bin/sh
# Stands in, inside an instance, for every program that would touch the machine itself.
# It is linked under the names of those programs and goes by the name it was called with.
#
# Halting writes one word and a delay in seconds to the instance's /run/initctl, which the host
# reads: "poweroff 0", "reboot 60", "cancel 0".
set -u

name=${0##*/}
control=${PMR_INITCTL:-/run/initctl}

refuse() {
    echo "$name: not available on a local instance" >&2
    exit 1
}

tell() {
    if [ ! -p "$control" ]; then
        echo "$name: the instance is not up" >&2
        exit 1
    fi
    if [ ! -w "$control" ]; then
        echo "$name: only root of the instance can do that" >&2
        exit 1
    fi
    echo "$1 $2" >"$control"
    exit
}

# Prints the seconds until a time as shutdown(8) takes it: now, +MINUTES, HH:MM.
delay_s() {
    case $1 in
        now | +0) echo 0 ;;
        +*) echo $((${1#+} * 60)) ;;
        *:*)
            at=$(date -d "$1" +%s 2>/dev/null) || return 1
            now=$(date +%s)
            if [ "$at" -lt "$now" ]; then at=$((at + 86400)); fi
            echo $((at - now))
            ;;
        *) return 1 ;;
    esac
}

halt_later() {
    action=poweroff
    when=
    for word in "$@"; do
        case $word in
            -c) tell cancel 0 ;;
            -r | --reboot) action=reboot ;;
            -k) exit 0 ;;
            -*) ;;
            *) if [ -z "$when" ]; then when=$word; fi ;;
        esac
    done
    if ! seconds=$(delay_s "${when:-+1}"); then
        echo "$name: cannot understand the time '$when'" >&2
        exit 1
    fi
    tell "$action" "$seconds"
}

as_is() {
    # Options end where the command begins; assignments before it are kept, as sudo does.
    while [ $# -gt 0 ]; do
        case $1 in
            -u | -g | -h | -p | -C | -r | -t | -T | -U | -D | -R) shift 2 2>/dev/null || shift $# ;;
            --) shift; break ;;
            -*) shift ;;
            *) break ;;
        esac
    done
    if [ $# -eq 0 ]; then exit 0; fi
    exec env -- "$@"
}

run_scope() {
    while [ $# -gt 0 ]; do
        case $1 in
            -p | -u | -t | -E | -H | -M) shift 2 2>/dev/null || shift $# ;;
            --) shift; break ;;
            -*) shift ;;
            *) break ;;
        esac
    done
    if [ $# -eq 0 ]; then refuse; fi
    exec "$@"
}

control_system() {
    for word in "$@"; do
        case $word in
            poweroff | halt) tell "$word" 0 ;;
            reboot) tell reboot 0 ;;
            -*) ;;
            *) break ;;
        esac
    done
    echo "System has not been booted with systemd as init system (PID 1). Can't operate." >&2
    exit 1
}

case $name in
    shutdown) halt_later "$@" ;;
    poweroff | halt)
        for word in "$@"; do
            case $word in -p | --poweroff) name=poweroff ;; esac
        done
        tell "$name" 0
        ;;
    reboot) tell reboot 0 ;;
    sudo) as_is "$@" ;;
    systemd-run) run_scope "$@" ;;
    systemctl) control_system "$@" ;;
    *) refuse ;;
esac
