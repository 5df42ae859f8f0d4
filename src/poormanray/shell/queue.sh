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

sealed_here() { # sets SEALED to the instances, by host index, whose records are closed here: ,1,2,
    local lines=()
    SEALED=,
    [[ -s $JOB_DIR/sealed ]] || return 0
    mapfile -t lines <"$JOB_DIR/sealed"
    printf -v SEALED ',%s' ${lines[@]+"${lines[@]}"}
    SEALED+=,
}

seal() { # host indices; closes the records of these; false where those of others are closed already
    # Whoever does not count an instance as lost that others do has not read what they have decided.
    local one others=${1//[*-]/}
    sealed_here
    for one in ${SEALED//,/ }; do
        [[ $1 == '*' || ,$others, == *,$one,* ]] && continue
        fact refused sealed
        return 1
    done
    for one in ${others//,/ }; do
        [[ -n ${one//[0-9]/} || $SEALED == *,$one,* ]] && continue
        printf '%s\n' "$one" >>"$JOB_DIR/sealed" || { fact refused disk; return 1; }
        SEALED+=$one,
    done
}

tell_sealed() { # nothing where no records are closed
    local all=${SEALED#,}
    [[ -z ${all%,} ]] || fact sealed "${all%,}"
}

taken() { # host index; sets TAKEN to the attempts whose adopter is on record: ,1.2,7.3,
    local line lines=()
    TAKEN=,
    [[ -s $JOB_DIR/mirror ]] || return 0
    mapfile -t lines <"$JOB_DIR/mirror"
    for line in ${lines[@]+"${lines[@]}"}; do
        [[ ${line%%=*} == "$1" ]] || continue
        line=${line#*/}
        TAKEN+=${line%% *},
    done
}

remember() { # word; what became of attempts of another instance; the caller holds the job's lock
    local word=$1 head=${1%%/*} key keys=
    if [[ $head == *=* ]]; then
        # Who adopts what a lost instance had: the first word counts.
        taken "${head%%=*}"
        keys=${word#*/} word=
        for key in ${keys//,/ }; do
            [[ $TAKEN == *,$key,* ]] || word+=,$key
        done
        [[ -n $word ]] || return 0
        word=$head/${word:1}
    else
        sealed_here
        [[ $SEALED != *,${head%%>*},* ]] || return 0
    fi
    checksum "$word"
    printf '%s %s\n' "$word" "$SUM" >>"$JOB_DIR/mirror" || return
    [[ $head == *[=\>]* ]] || fact mirrored 1
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
