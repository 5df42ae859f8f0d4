# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# Removing what jobs have left behind: ledgers, folders of tasks, parts that never became a job.

stays() { # sets WHY to why the job must stay, "" if nothing of it can start or run any more
    WHY=
    runner_state
    case $RUNNER in
        running) WHY=running ;;
        unsettled) WHY=settling ;;
        new) WHY=waiting ;;
        # A client may be about to start a runner for what it has brought.
        'done') unclaimed && WHY=waiting ;;
    esac
}

bytes_of() { # job; sets BYTES to what all of it takes on the disk
    BYTES=$(du -s -B1 -c "$PMR_ROOT/jobs/$1" "$PMR_ROOT/work/$1" "$PMR_ROOT/stage/$1" 2>/dev/null | tail -n 1)
    BYTES=${BYTES%%[!0-9]*}
}

age_of() { # file or folder; sets AGE to the seconds since it last changed
    local clock at
    printf -v clock '%(%s)T' -1
    at=$(stat -c %Y "$1" 2>/dev/null) || at=$clock
    AGE=$((clock - at))
}

put_aside() { # job; all of it has left its place, whatever becomes of the rest
    local place
    # The ledger last: by it the next one finds what a killed one has left.
    for place in stage work jobs; do
        [[ ! -d $PMR_ROOT/$place/$1 ]] || mv -T "$PMR_ROOT/$place/$1" "$PMR_ROOT/$place/.gone.$1" || return
    done
}

remove() { # jobs; under the lock only what makes them nobody's any more
    local job own
    for job; do
        [[ $job =~ ^[0-9a-z]+$ ]] || continue
        WHY=
        bytes_of "$job"
        ((BYTES > 0)) || continue
        open_job "$job" || [[ -z $FOREIGN ]] || WHY=format
        if [[ -n $JOB_DIR ]]; then
            settle
            exec {own}>"$JOB_DIR/lock"
            flock "$own"
            stays
            exec {own}>&-
        fi
        [[ -n $WHY ]] || put_aside "$job" || WHY=failed
        fact "job.$job" "$BYTES 0 0 ${WHY:--}"
    done
}

look_over() { # cluster older larger most; tells of each job that might go, and of each that must stay
    local folder key value cluster hosts
    for folder in "$PMR_ROOT"/jobs/*/ "$PMR_ROOT"/stage/*/; do
        folder=${folder%/} cluster='' hosts=0
        [[ -d $folder ]] || continue
        if open_job "${folder##*/}"; then
            [[ $folder == "$PMR_ROOT"/jobs/* ]] || continue
            while IFS='=' read -r key value; do
                case $key in
                    cluster) cluster=$value ;;
                    hosts) hosts=$value ;;
                esac
            done <"$JOB_DIR/meta"
            [[ $cluster == "$1" ]] || continue
            settle
            stays
            age_of "$JOB_DIR/events"
        elif [[ -n $FOREIGN ]]; then
            # Whether it still runs is written in a way that is not known here.
            [[ $folder == "$PMR_ROOT"/jobs/* ]] || continue
            WHY=format
            age_of "$folder"
        else
            # Parts of a job that never came to be, or that is just being submitted.
            WHY=
            age_of "$folder"
            ((AGE >= 3600)) || continue
        fi
        BYTES=0
        if [[ -z $WHY ]]; then
            ((AGE >= $2)) || continue
            bytes_of "${folder##*/}"
            ((BYTES >= $3)) || continue
        fi
        ((FOUND < $4)) || { MORE_FACTS=1 && break; }
        FOUND=$((FOUND + 1))
        fact "job.${folder##*/}" "$BYTES $AGE $hosts ${WHY:--}"
    done
}

verb_prune() { # "look_over" cluster older larger most; or "remove" and the jobs
    local what=$1 lock FOUND=0 WHY BYTES AGE
    shift
    WANTED='' EVENTS_AT=''
    mkdir -p "$PMR_ROOT/jobs"
    # No job starts meanwhile, and none gets a runner again.
    exec {lock}>"$PMR_ROOT/lock"
    flock "$lock"
    case $what in look_over | remove) "$what" "$@" ;; esac
    exec {lock}>&-
    [[ $what == look_over ]] || rm -rf --one-file-system "$PMR_ROOT"/{jobs,work,stage}/.gone.*
    JOB_DIR=
    answer "$LARGE"
}
