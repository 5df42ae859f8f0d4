# shellcheck shell=bash
# shellcheck disable=SC2004,SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# What holds a slot back: load and memory, the back-off of what has failed, a spot instance's end.

: "${PMR_PROC:=/proc}"
# Host and port of the instance metadata service; a path is of a file that says the same.
: "${PMR_IMDS:=169.254.169.254/80}"

hold_limits() { # sets MOST_LOAD, in hundredths, and HOLDS, empty where neither counts
    MOST_LOAD=$META_max_load
    [[ $MOST_LOAD != *% ]] || MOST_LOAD=$((${MOST_LOAD%?} * $(nproc)))
    HOLDS=$MOST_LOAD$META_memfree
}

crowded() { # true while load or memory allow no further task; sets WHY
    local load key='' kib
    if [[ -n $MOST_LOAD ]] && read -r load _ <"$PMR_PROC/loadavg"; then
        WHY=load
        ((10#${load/./} > MOST_LOAD)) && return
    fi
    [[ -n $META_memfree ]] || return
    WHY=memory
    while read -r key kib _; do
        [[ $key != MemAvailable: ]] || break
    done <"$PMR_PROC/meminfo"
    [[ $key == MemAvailable: ]] && ((kib < META_memfree))
}

may_start() { # task.attempt; waits until it may; false when somebody else has it, or nobody shall
    while [[ ! -e $JOB_DIR/cancel && ! -e $JOB_DIR/claims/$1 ]]; do
        if [[ ! -e $JOB_DIR/interrupted ]]; then
            crowded || { let_in && return; }
            if [[ -z $HELD_BACK ]]; then
                HELD_BACK=$WHY
                now
                event J "$NOW" held "$WHY" "$SLOT"
            fi
        fi
        pause 1
    done
    return 1
}

let_in() { # what was held back is not any more
    [[ -n $HELD_BACK ]] || return 0
    HELD_BACK=
    now
    event J "$NOW" freed "$SLOT"
}

others_run() { # true while another slot has a task
    local file pid since
    for file in "$JOB_DIR"/slots/*; do
        [[ $file != "$JOB_DIR/slots/$SLOT" ]] || continue
        { read -r _ pid since <"$file"; } 2>/dev/null && lives "$pid" "$since" && return
    done
    return 1
}

# --- another turn for what has failed -----------------------------------------------------------

queue_again() { # task attempt; queues the next one, to start when its back-off is over
    local lock
    exec {lock}>"$JOB_DIR/lock"
    flock "$lock"
    queue_next "$@"
    exec {lock}>&-
}

queue_next() { # as queue_again; the caller holds the lock
    local next=$(($2 + 1)) wait_s=60
    (($2 < 7)) && wait_s=$((1 << ($2 - 1)))
    # On record before the end of the attempt that failed: so the task never seems to have ended.
    now
    event A "$NOW" "$1.$next"
    printf '%s %s %s\n' "$1" "$next" $((${NOW/./} + wait_s * 1000)) >>"$JOB_DIR/queue"
    room_for_events "$JOB_DIR"
    if [[ -e $JOB_DIR/cancel ]] && claim "$1.$next"; then
        # The cancel may have read the queue before that.
        event E "$NOW" "$1" "$next" - cancelled
    fi
}

next_task() { # sets task and attempt; false when there is none to start now
    local due key
    while read -r task attempt due <&"$QUEUE"; do
        [[ -n $due ]] || return 0
        now
        # No back-off is that long: the time is of an earlier boot.
        ((due - ${NOW/./} <= 60000)) || due=0
        LATER[$task.$attempt]=$due
    done
    ((${#LATER[@]})) || return
    now
    for key in "${!LATER[@]}"; do
        if [[ -e $JOB_DIR/claims/$key ]]; then
            unset "LATER[$key]"
        elif [[ ${LATER[$key]} -le ${NOW/./} ]]; then
            unset "LATER[$key]"
            task=${key%.*} attempt=${key#*.}
            return 0
        fi
    done
    return 1
}

# --- time limits --------------------------------------------------------------------------------

time_limit() { # task.attempt; ends the task when its time is over
    # Held for the life of the runner and its slots, one of which this may outlive.
    exec {HELD}>&-
    local seconds=${META_timeout%%.*} part=000 until left
    [[ $META_timeout != *.* ]] || part=${META_timeout#*.}000
    since_boot
    until=$((UPTIME + 10#$seconds * 1000 + 10#${part:0:3}))
    while left=$((until - UPTIME)) && ((left > 0)); do
        # A long wait may stand still while the machine is suspended.
        ((left <= 10000)) || left=10000
        printf -v seconds '%d.%03d' $((left / 1000)) $((left % 1000))
        pause "$seconds"
        since_boot
    done
    # shellcheck disable=SC2086 # splitting into words is meant
    lives $SLOT_ID && end_task "$1" timeout 5
}

take_time() { # of the event whose words flush has read
    local key=$task.$attempt ms
    [[ $key =~ ^[0-9]+\.[0-9]+$ && $when =~ ^[0-9]+\.[0-9]{3}$ ]] || return 0
    case $kind in
        S) BEGAN[$key]=${when/./} ;;
        E)
            unset "BEGAN[$key]"
            [[ $code == 0 && $why == exit && $began =~ ^[0-9]+\.[0-9]{3}$ ]] || return 0
            ms=$((${when/./} - ${began/./}))
            ((ms >= 0)) || ms=0
            TIMES[ms]=$((${TIMES[ms]-0} + 1)) TIMED=$((TIMED + 1))
            ;;
    esac
}

end_slow() { # ends what takes longer than its part of the median, as soon as three have succeeded
    local key ms left
    ((TIMED >= 3 && ${#BEGAN[@]})) || return 0
    left=$(((TIMED + 1) / 2))
    # An array's indices come in their order: so these are times, from the shortest.
    for ms in "${!TIMES[@]}"; do
        left=$((left - TIMES[ms]))
        ((left > 0)) || break
    done
    now
    for key in "${!BEGAN[@]}"; do
        [[ $(((${NOW/./} - ${BEGAN[$key]}) * 100)) -gt $((ms * META_timeout_percent)) ]] || continue
        unset "BEGAN[$key]"
        end_task "$key" timeout 5 &
    done
}

# --- the end of a spot instance -----------------------------------------------------------------

imds() { # method path header; the body of the answer on stdout, nothing for 404
    local fd status line size=0 body
    exec {fd}<>"/dev/tcp/$PMR_IMDS" &&
        printf '%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\nConnection: close\r\n\r\n' \
            "$1" "$2" "${PMR_IMDS%/*}" "$3" >&"$fd" && read -r _ status _ <&"$fd" || return
    while IFS= read -r line <&"$fd" && [[ $line != $'\r' ]]; do
        line=${line,,}
        [[ $line =~ ^content-length:\ *([0-9]{1,4})[^0-9]*$ ]] && size=${BASH_REMATCH[1]}
    done
    [[ $status == 200 || $status == 404 ]] || return
    if [[ $status == 200 ]]; then
        IFS= read -r -N "$size" body <&"$fd"
        printf '%s\n' "$body"
    fi
}

ask_imds() { # what EC2 says of this instance's end, on stdout; false when nobody answers
    local token
    token=$(imds PUT /latest/api/token 'X-aws-ec2-metadata-token-ttl-seconds: 60') &&
        imds GET /latest/meta-data/spot/instance-action "X-aws-ec2-metadata-token: $token"
}

heed_notice() { # nothing starts any more on an instance that EC2 is about to take back
    local said='' action='"action"[^"]*"([a-z-]{1,20})"' at='"time"[^"]*"([0-9TZ:.-]{1,30})"'
    [[ -n $PMR_IMDS ]] || return 0
    if [[ $PMR_IMDS == /* ]]; then
        [[ ! -e $PMR_IMDS ]] || said=$(<"$PMR_IMDS")
    elif said=$(timeout 2 bash "$JOB_DIR/library.sh" imds 2>/dev/null); then
        UNHEARD=0
    else
        # Not an instance of EC2, or one that may not ask.
        UNHEARD=$((UNHEARD + 1))
        ((UNHEARD < 3)) || PMR_IMDS=
    fi
    [[ $said =~ $action ]] || return 0
    action=${BASH_REMATCH[1]} PMR_IMDS=
    [[ $said =~ $at ]] && at=${BASH_REMATCH[1]} || at=-
    : >"$JOB_DIR/interrupted"
    now
    event J "$NOW" interrupted "$action" "$at"
}
