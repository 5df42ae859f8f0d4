# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# The ledger of one instance: where its files are, events, claims, and what "running" means.

never() { # sets PMR_NEVER to a descriptor that never has anything to read
    [[ -n ${PMR_NEVER-} ]] || exec {PMR_NEVER}<> <(:)
}

pause() { # seconds, fractions allowed; without a process
    never
    read -r -t "$1" -u "$PMR_NEVER" || :
}

since_boot() { # sets UPTIME to the milliseconds since the boot; what measures time goes by this clock
    UPTIME=0.00
    read -r UPTIME _ </proc/uptime
    # Two digits follow the point.
    UPTIME=$((10#${UPTIME/./} * 10))
}

wall_clock() { # sets WALL to epoch milliseconds; it may be set back or forth at any moment
    WALL=${EPOCHREALTIME-}
    # Bash 4 has none.
    [[ -n $WALL ]] || WALL=$(date +%s.%6N)
    WALL=${WALL/./} WALL=${WALL%???}
}

job_epoch() { # ledger; sets EPOCH to the wall clock's milliseconds at the boot, as the job began with
    local boot='' epoch=''
    boot_id
    { read -r boot epoch <"$1/epoch"; } 2>/dev/null
    if [[ $boot != "$BOOT" || -z $epoch || $epoch == *[!0-9]* ]]; then
        wall_clock
        epoch=$((WALL - UPTIME))
    fi
    EPOCH=$epoch EPOCH_OF=$1
}

keep_epoch() { # ledger; for as long as this boot lasts
    since_boot
    job_epoch "$1"
    printf '%s %s\n' "$BOOT" "$EPOCH" >"$1/epoch.new" && mv -f "$1/epoch.new" "$1/epoch"
}

now() { # sets NOW, for events: epoch seconds with milliseconds, of which a difference is a duration
    # The boot clock, shown as the wall clock was when the job came: so an event needs one time only,
    # and nothing that is done to the wall clock since makes a task long, short or late.
    since_boot
    [[ ${EPOCH_OF-} == "$JOB_DIR" ]] || job_epoch "$JOB_DIR"
    NOW=$((EPOCH + UPTIME))
    NOW=${NOW%???}.${NOW: -3}
}

patiently() { # words; what they come to, tried again while that may be the machine's failure
    local tries code
    for tries in 1 2 3; do
        "$@"
        code=$?
        # 2: what was asked for is not there. 127: who would know is not.
        ((code == 0 || code == 2 || code == 127 || tries == 3)) && return "$code"
        pause 1
    done
}

boot_id() { # sets BOOT
    BOOT=none
    [[ -r /proc/sys/kernel/random/boot_id ]] && read -r BOOT </proc/sys/kernel/random/boot_id
}

fields_of() { # pid; sets FIELDS to what /proc/<pid>/stat says after the command's name
    local stat=
    { IFS= read -r stat </proc/"$1"/stat || [[ -n $stat ]]; } 2>/dev/null || { FIELDS=() && return 1; }
    # shellcheck disable=SC2206 # splitting into fields is meant
    FIELDS=(${stat##*) })
    if ((${#FIELDS[@]} < 20)); then
        # Whoever runs a program chooses that name: it may hold brackets, spaces and newlines. To
        # look for its end past newlines, bash reads byte by byte.
        { IFS= read -r -d '' stat </proc/"$1"/stat || [[ -n $stat ]]; } 2>/dev/null
        # shellcheck disable=SC2206
        FIELDS=(${stat##*) })
    fi
    ((${#FIELDS[@]} > 19)) && [[ ${FIELDS[0]} != Z ]]
}

started_at() { # pid; sets STARTED to the process's start time in clock ticks since boot, or ""
    STARTED=
    fields_of "$1" || return 1
    STARTED=${FIELDS[19]}
}

event() { # words of the event; one whole line, appended by one write
    checksum "$*"
    printf '%s %s\n' "$*" "$SUM" >>"$JOB_DIR/events" 2>/dev/null && return
    # The disk is full: give back what was kept for this moment. The line may be half there.
    rm -f "$JOB_DIR/reserve"
    printf '\n%s %s\n' "$*" "$SUM" >>"$JOB_DIR/events" 2>/dev/null && return
    pause 1
    printf '\n%s %s\n' "$*" "$SUM" >>"$JOB_DIR/events"
}

claim() { # task.attempt; true for exactly one caller, ever
    # noclobber opens with O_EXCL. The inner braces keep the shell's own complaint quiet.
    set -o noclobber
    { : >"$JOB_DIR/claims/$1"; } 2>/dev/null
    local taken=$?
    set +o noclobber
    return "$taken"
}

# What this file and the others write and read as a ledger; raised when an older pmr could not.
LEDGER_FORMAT=2

open_job() { # job id; sets JOB and JOB_DIR; false where there is none, or FOREIGN says of what format
    local format='' version=''
    FOREIGN='' JOB_DIR=
    # The id is a part of paths that root writes to.
    [[ $1 =~ ^[0-9a-z]+$ ]] || return
    JOB=$1
    [[ -d $PMR_ROOT/jobs/$1 ]] || return
    { read -r format version _ <"$PMR_ROOT/jobs/$1/format"; } 2>/dev/null
    if [[ $format != "$LEDGER_FORMAT" ]]; then
        # Nothing reads or writes it: whatever it holds may mean something else there.
        FOREIGN="${format:-0} ${version:--}"
        return 1
    fi
    JOB_DIR=$PMR_ROOT/jobs/$1
}

refuse_job() { # tells why there is no answer about the job that open_job has not opened
    [[ -z $FOREIGN ]] || { fact refused "format $JOB $FOREIGN" && return; }
    fact refused no-such-job
}

load_meta() { # sets META_<key> for the keys of the ledger's meta file that the runner needs
    local key value
    META_cluster='' META_tasks=0 META_hosts=0 META_slots=1 META_timeout=0 META_user=''
    META_log_cap=1073741824 META_region='' META_compat=''
    META_retries=0 META_max_load='' META_memfree='' META_timeout_percent=''
    while IFS='=' read -r key value; do
        case $key in
            cluster | tasks | hosts | slots | timeout | user | log_cap | region | compat | \
                retries | max_load | memfree | timeout_percent)
                printf -v "META_$key" %s "$value"
                ;;
        esac
    done <"$JOB_DIR/meta"
    # Without it, tasks would run with no limit, and as whoever comes first.
    [[ -n $META_cluster ]]
}

runner_state() { # sets RUNNER to new, running, done or dead
    local pid start boot
    RUNNER=new
    [[ -e $JOB_DIR/done ]] && RUNNER='done' && return
    [[ -s $JOB_DIR/runner ]] || return 0
    read -r pid start boot <"$JOB_DIR/runner"
    boot_id
    RUNNER=dead FATE=lost
    # What cannot be read now says nothing: a machine that is out of memory may have both.
    [[ $boot == "$BOOT" || $BOOT == none ]] || FATE=rebooted
    if [[ $FATE == lost ]] && started_at "$pid" && [[ $STARTED == "$start" ]]; then
        RUNNER=running
    elif [[ $FATE == lost && ${#FIELDS[@]} == 0 && -e /proc/$pid ]]; then
        RUNNER=running
    elif [[ -e $JOB_DIR/done ]]; then
        # It ended between the two looks.
        RUNNER='done'
    fi
}

bounds() { # from-to:step, or less of it; sets from, upto and step
    step=${1#*:} upto=${1%:*}
    [[ $step == "$1" ]] && step=1
    from=${upto%-*} upto=${upto#*-}
}

ids_of() { # ranges of ids, as from-to:step,...; sets IDS
    local range from upto step
    IDS=()
    for range in ${1//,/ }; do
        bounds "$range"
        for (( ; from <= upto; from += step)); do
            IDS+=("$from")
        done
    done
}

# --- processes -------------------------------------------------------------------------------

carries() { # pid NAME=value; true when the process was started with that variable
    local entry
    while IFS= read -r -d '' entry; do
        [[ $entry == "$2" ]] && return 0
    done 2>/dev/null <"/proc/$1/environ"
    return 1
}

group_of() { # pid; sets GROUP, its process group, as /proc/<pid>/stat tells it to everybody
    GROUP=
    fields_of "$1" || return 1
    GROUP=${FIELDS[2]}
}

processes_of() { # task.attempt or "" for the whole job; sets PIDS
    local key=$1 proc pid mark="PMR_JOB_ID=$JOB" log work leader=none
    PIDS=()
    [[ -n $key && -s $JOB_DIR/claims/$key ]] && read -r leader <"$JOB_DIR/claims/$key"
    [[ -n $key ]] && mark="PMR_TASK_KEY=${JOB}_$key"
    for proc in /proc/[0-9]*; do
        pid=${proc#/proc/}
        [[ $pid == "$$" || $pid == "$BASHPID" || $pid == 1 ]] && continue
        group_of "$pid" || continue
        if [[ $GROUP == "$leader" || $pid == "$leader" ]] ||
            { carries "$pid" "$mark" && carries "$pid" "PMR_INSTANCE_ID=${AWS_SSM_INSTANCE_ID-}"; }; then
            [[ -n $GROUP ]] && PIDS+=("$pid")
        elif [[ -n $key ]]; then
            # A daemon that dropped its environment still stands in the folder or holds the log.
            log=$JOB_DIR/logs/$key work=$PMR_ROOT/work/$JOB/$key
            if [[ $proc/cwd -ef $work || $proc/fd/1 -ef $log || $proc/fd/2 -ef $log ]] &&
                ! carries "$pid" "PMR_RUNNER=$JOB"; then
                PIDS+=("$pid")
            fi
        fi
    done
}

signal_all() { # signal; pids in PIDS
    ((${#PIDS[@]})) || return 0
    kill -s "$1" "${PIDS[@]}" 2>/dev/null || :
}

end_processes() { # task.attempt or ""; grace in seconds; sets PIDS to what survived
    local grace=$2 waited=0
    processes_of "$1"
    signal_all TERM
    signal_all CONT
    while ((${#PIDS[@]} && waited < grace * 5)); do
        pause 0.2
        waited=$((waited + 1))
        processes_of "$1"
    done
    waited=0
    while ((${#PIDS[@]} && waited < 5)); do
        signal_all KILL
        pause 0.1
        waited=$((waited + 1))
        processes_of "$1"
    done
}

give_reason() { # task.attempt reason; why it is ended, for whoever reaps it; the first one counts
    # A link keeps its word where a full disk would leave an empty file.
    ln -s "$2" "$JOB_DIR/why/$1" 2>/dev/null && return
    [[ -L $JOB_DIR/why/$1 ]] && return
    rm -f "$JOB_DIR/reserve"
    ln -s "$2" "$JOB_DIR/why/$1"
}

not_started() { # task.attempt; never returns: the machine has failed, before there was a task
    give_reason "$1" unstartable
    exit 126
}

end_task() { # task.attempt reason grace
    give_reason "$1" "$2"
    end_processes "$1" "$3"
}

# --- what a dead runner leaves behind ---------------------------------------------------------

unended() { # sets OPEN to the task.attempt of everything that was claimed here and has no end
    local kind task attempt rest file
    local -A ended=()
    while read -r kind _ task attempt rest; do
        case $kind in
            E) ended[$task.$attempt]=1 ;;
            G) for file in ${attempt//,/ }; do ended[$file]=1; done ;;
        esac
    done <"$JOB_DIR/events" || return
    OPEN=()
    for file in "$JOB_DIR"/claims/*; do
        [[ -e $file && -z ${ended[${file##*/}]-} ]] && OPEN+=("${file##*/}")
    done
    return 0
}

settle() { # writes LOST for what a dead runner was running; once, under the job's lock; sets RUNNER
    local lock key
    runner_state
    [[ $RUNNER == dead && ! -e $JOB_DIR/settled ]] || return 0
    exec {lock}>"$JOB_DIR/lock"
    flock "$lock"
    runner_state
    if [[ $RUNNER == dead && ! -e $JOB_DIR/settled ]]; then
        end_slots
        unended || { exec {lock}>&-; return; }
        for key in ${OPEN[@]+"${OPEN[@]}"}; do
            end_processes "$key" 0
            now
            event E "$NOW" "${key%.*}" "${key#*.}" - "$FATE"
        done
        if [[ $FATE == rebooted ]]; then
            # The queue is intact. Another runner goes on with it once a client has looked: some of
            # what waits here may have been given to others meanwhile.
            : >"$JOB_DIR/waits"
            rm -f "$JOB_DIR/runner"
            RUNNER=new
        else
            now
            event J "$NOW" runner-lost
            : >"$JOB_DIR/settled"
        fi
    fi
    exec {lock}>&-
}

end_slots() { # a slot that outlived its runner would start further tasks
    local proc pid
    for proc in /proc/[0-9]*; do
        pid=${proc#/proc/}
        # A local cloud without namespaces shows the runners of its other instances too.
        carries "$pid" "PMR_RUNNER=$JOB" &&
            carries "$pid" "AWS_SSM_INSTANCE_ID=${AWS_SSM_INSTANCE_ID-}" &&
            kill -s KILL "$pid" 2>/dev/null
    done
    return 0
}
