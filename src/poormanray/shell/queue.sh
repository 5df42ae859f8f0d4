# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# Which tasks wait on this instance: a client takes some away for others, or brings some.

give_away() { # host task.attempt/...; claims what still waits, and records who gets it
    local key keys=
    for key in ${2//\// }; do
        # The claim decides: a slot may be faster, and another client too.
        claim "$key" && keys+=,$key
    done
    [[ -n $keys ]] || return 0
    now
    event G "$NOW" "$1" "${keys:1}"
}

adopt() { # task.attempt,...; queues what is not queued yet; the caller holds the job's lock
    local task attempt key keys=
    local -A known=()
    while read -r task attempt _; do
        known[$task.$attempt]=1
    done <"$JOB_DIR/queue"
    for key in ${1//[,+]/ }; do
        [[ -n ${known[$key]-} ]] || keys+=,$key
    done
    [[ -n $keys ]] || return 0
    # On record first: a task that runs without having been adopted would be nobody's.
    now
    event A "$NOW" "${keys:1}"
    for key in ${keys//,/ }; do
        printf '%s %s\n' "${key%.*}" "${key#*.}"
    done >>"$JOB_DIR/queue"
    room_for_events "$JOB_DIR"
}

remember() { # words; what has ended on another instance, should that one be lost
    checksum "$1"
    printf '%s %s\n' "$1" "$SUM" >>"$JOB_DIR/mirror" && fact mirrored 1
}

unclaimed() { # true when something waits in the queue
    local task attempt
    [[ ! -e $JOB_DIR/cancel ]] || return
    while read -r task attempt _; do
        [[ -e $JOB_DIR/claims/$task.$attempt ]] || return 0
    done <"$JOB_DIR/queue"
    return 1
}

room_for_events() { # folder; what the queue's tasks will put on record fits, however full the disk gets
    local tasks
    tasks=$(wc -l <"$1/queue")
    # Not every file system can promise room; those that cannot have the reserve alone.
    fallocate --keep-size --length 1 "$1/events" 2>/dev/null || return 0
    fallocate --keep-size --length $((4096 + tasks * 512)) "$1/events"
}
