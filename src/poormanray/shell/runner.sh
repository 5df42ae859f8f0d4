# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# The runner of one job on one instance: K slots that claim tasks from the queue and run them.
# It lives in its own screen session, outside the process group of any command.

load_manifest() { # sets which script each task runs, where scripts and files are, and who we are
    local kind a b c d id range from upto step last index=0
    SCRIPT_OF=() SCRIPT_AT=() SCRIPT_SIZE=() FILES=() ENTRY_OF=() INDEX_OF=() ARRAYS=()
    HOST_INDEX=0 SLOT_CAP=0 LOWEST='' HIGHEST=0
    while read -r kind a b c d; do
        case $kind in
            T) SCRIPT_OF[a]=$b ENTRY_OF[a]=${d#-} INDEX_OF[a]=$index index=$((index + 1)) ;;
            R)
                for range in ${a//,/ }; do
                    bounds "$range"
                    ARRAYS+=("$from $upto $step $b $index")
                    index=$((index + (upto - from) / step + 1)) last=$((upto - (upto - from) % step))
                    LOWEST=$((from < ${LOWEST:-from + 1} ? from : LOWEST)) HIGHEST=$((last > HIGHEST ? last : HIGHEST))
                done
                ;;
            S) SCRIPT_AT[a]=$b SCRIPT_SIZE[a]=$c ;;
            F) FILES+=("$a $b $c $d") ;;
            H) [[ $b == "${AWS_SSM_INSTANCE_ID-}" ]] && HOST_INDEX=$a SLOT_CAP=$d ;;
        esac
    done <"$JOB_DIR/manifest"
    for id in "${!SCRIPT_OF[@]}"; do
        LOWEST=$((id < ${LOWEST:-id + 1} ? id : LOWEST)) HIGHEST=$((id > HIGHEST ? id : HIGHEST))
    done
    [[ -n $LOWEST ]]
}

know() { # task; what the manifest says of it, also where it is one of an array of many
    local array
    [[ -z ${SCRIPT_OF[$1]-} ]] || return 0
    for array in ${ARRAYS[@]+"${ARRAYS[@]}"}; do
        # shellcheck disable=SC2086 # splitting into words is meant
        set -- "$1" $array
        if (($1 >= $2 && $1 <= $3 && ($1 - $2) % $4 == 0)); then
            # Tasks of an array: each is named, and for, its own number.
            SCRIPT_OF[$1]=$5 ENTRY_OF[$1]='#' INDEX_OF[$1]=$(($6 + ($1 - $2) / $4))
            return
        fi
    done
}

cut_out() { # offset size; that part of the job's content on stdout
    dd if="$JOB_DIR/content" bs=64k iflag=skip_bytes,count_bytes skip="$1" count="$2" 2>/dev/null
}

script_files() { # task.attempt...; the script of each is an executable file with its bytes
    local new=$JOB_DIR/scripts/.new.$BASHPID status
    # What is half there, now or from a process before this one, never comes to where a task looks.
    [[ ! -d $new ]] || rm -rf "$new" || return
    new_scripts "$new" "$@"
    status=$?
    [[ ! -d $new ]] || rm -rf "$new"
    return "$status"
}

new_scripts() { # folder task.attempt...
    local key number new=$1
    shift
    for key; do
        know "${key%.*}"
        number=${SCRIPT_OF[${key%.*}]}
        [[ -x $JOB_DIR/scripts/$number || -e $new/$number ]] && continue
        [[ -d $new ]] || mkdir "$new" || return
        cut_out "${SCRIPT_AT[number]}" "${SCRIPT_SIZE[number]}" >"$new/$number" || return
    done
    [[ -d $new ]] || return 0
    # `ps` shows everybody where they are: only the tasks' user may read them.
    [[ -z ${USER_IDS-} ]] || chown -- "$USER_IDS" "$new"/* || return
    chmod 500 "$new"/* && mv -f -t "$JOB_DIR/scripts" -- "$new"/*
}

place_files() { # work folder; the job's helper files, each under its own path
    local line at size mode path
    for line in ${FILES[@]+"${FILES[@]}"}; do
        read -r at size mode path <<<"$line"
        # A command substitution drops the newlines at its end, and a name may have some.
        path=$(base64 -d <<<"$path" && printf x)
        path=$1/${path%x}
        mkdir -p "${path%/*}" && cut_out "$at" "$size" >"$path" && chmod "$mode" "$path" || return
    done
}

places() { # task.attempt...; their scripts, folders and logs, with few processes for many
    local new=$PMR_ROOT/work/.new.$JOB.$BASHPID status
    # A folder is where its task looks for it only when it is whole: what it writes to comes first.
    rm -rf "$new" && mkdir "$new" && fill_places "$new" "$@" &&
        (cd "$new" && exec mv -n -t "$PMR_ROOT/work/$JOB" -- "${@/%/.out}" "$@")
    status=$?
    rm -rf "$new"
    return "$status"
}

fill_places() { # folder task.attempt...
    local key new=$1
    shift
    script_files "$@" && (cd "$new" && exec mkdir -- "$@" "${@/%/.out}") || return
    for key; do
        : >"$JOB_DIR/logs/$key" || return
        ((${#FILES[@]} == 0)) || place_files "$new/$key" || return
    done
    [[ -z ${USER_IDS-} ]] || {
        (cd "$JOB_DIR/logs" && exec chown -- "$USER_IDS" "$@") &&
            # Only helper files make something lie in them.
            (cd "$new" && exec chown ${FILES[0]+-R} -- "$USER_IDS" "$@" "${@/%/.out}")
    }
}

forget_places() { # what was placed before a power loss may be torn: nobody waited until it was on disk
    local task attempt placed_in='' torn=("$JOB_DIR"/scripts/{,.new.}*) at
    if [[ -e $JOB_DIR/placed-in ]]; then
        read -r placed_in <"$JOB_DIR/placed-in"
        [[ $placed_in != "$BOOT" ]] || return 0
        while read -r task attempt _; do
            [[ -e $JOB_DIR/claims/$task.$attempt ]] || torn+=("$PMR_ROOT/work/$JOB/$task.$attempt")
        done <"$JOB_DIR/queue"
        for ((at = 0; at < ${#torn[@]}; at += 256)); do
            rm -rf -- "${torn[@]:at:256}"
        done
    fi
    printf '%s\n' "$BOOT" >"$JOB_DIR/placed-in"
}

places_ahead() { # for what is queued, in its order, while the first tasks run already
    local task attempt more=1 most=16 keys
    # Copies of helper files would fill the disk long before they are of use.
    ((${#FILES[@]} > 0)) && more=0
    while ((more)); do
        keys=()
        while ((${#keys[@]} < most)); do
            read -r task attempt _ || { more=0 && break; }
            # A runner before this one has placed it, and it may have run: its log stays.
            [[ -d $PMR_ROOT/work/$JOB/$task.$attempt ]] || keys+=("$task.$attempt")
        done
        ((${#keys[@]} == 0)) || places "${keys[@]}" || break
        most=256
    done <"$JOB_DIR/queue"
    : >"$JOB_DIR/placed"
}

prepare() { # task.attempt; what it needs is there, or FAULT says why not
    FAULT=${USER_FAULT-}
    [[ -z $FAULT ]] || return
    same_user || { FAULT=no-user:$USER_NAME && return 1; }
    FAULT=unstartable
    WORK=$PMR_ROOT/work/$JOB/$1
    LOG=$JOB_DIR/logs/$1
    know "${1%.*}"
    SCRIPT=$JOB_DIR/scripts/${SCRIPT_OF[${1%.*}]}
    # shellcheck disable=SC2086 # splitting into words is meant
    while [[ ! -d $WORK && ! -e $JOB_DIR/placed ]] && lives $PLACER; do
        pause 0.01
    done
    [[ -d $WORK ]] || places "$1"
}

task_environment() { # task attempt; what a task sees, on top of a clean environment
    unset PMR_RUNNER PMR_DETACHED PMR_ROOT PMR_HOME PMR_IMDS PMR_PROC PMR_SCOPE PMR_CGROUP OLDPWD
    export HOME=$USER_HOME USER=$USER_NAME LOGNAME=$USER_NAME SHELL=${USER_SHELL:-/bin/bash}
    export TERM=dumb PYTHONUNBUFFERED=1
    export AWS_REGION=$META_region AWS_DEFAULT_REGION=$META_region
    export PMR_JOB_ID=$JOB PMR_TASK_ID=$1 PMR_TASK_INDEX=${INDEX_OF[$1]} PMR_TASK_COUNT=$META_tasks
    export PMR_TASK_ATTEMPT=$2 PMR_TASK_KEY=${JOB}_$1.$2 PMR_INSTANCE_ID=${AWS_SSM_INSTANCE_ID-}
    export PMR_OUTPUT_DIR=$WORK.out PMR_HOST_INDEX=$HOST_INDEX PMR_HOST_COUNT=$META_hosts PMR_CLUSTER=$META_cluster
    case ${ENTRY_OF[$1]} in
        '') ;;
        '#') export PMR_ENTRY=$1 ;;
        *) task_entry "${ENTRY_OF[$1]}" || return ;;
    esac
    [[ -z $META_compat ]] || names_of_others "$1" "$2"
    unset AWS_SSM_INSTANCE_ID
    # This shell takes bytes as they are, and a task shall not have to. Without a value, LC_ALL would
    # have this shell load a locale that it has no use for.
    export -n LC_ALL
    export LANG=C.UTF-8
}

load_environment() { # sets AS_TASK: the words that start a task's program, outside of everything here
    local entry entries=()
    while IFS= read -r -d '' entry; do
        entries+=("$entry")
    done <"$JOB_DIR/env" || return
    # The user's names may be this shell's own, or ones that no shell can set (UID): `env` sets them.
    ((${#entries[@]} == 0)) || entries=(env ${entries[@]+"${entries[@]}"})
    AS_TASK=(${SWITCH[@]+"${SWITCH[@]}"} ${entries[@]+"${entries[@]}"})
}

slurm_facts() { # sets JOB_NUMBER, a number that grows with time, and CPUS: those of one task
    local letters=0123456789abcdefghjkmnpqrstvwxyz at before
    JOB_NUMBER=0
    for ((at = 0; at < ${#JOB}; at++)); do
        before=${letters%%"${JOB:at:1}"*}
        JOB_NUMBER=$((JOB_NUMBER * 32 + ${#before}))
    done
    CPUS=$(($(nproc) / SLOTS))
    ((CPUS > 0)) || CPUS=1
}

names_of_others() { # task attempt; what scripts written for another scheduler look for
    case $META_compat in
        slurm)
            # As Slurm has it, each task of an array is a job of its own, on one node.
            export SLURM_JOB_ID=$((JOB_NUMBER + 1 + PMR_TASK_INDEX)) SLURM_ARRAY_JOB_ID=$JOB_NUMBER
            export SLURM_JOBID=$SLURM_JOB_ID SLURM_ARRAY_TASK_ID=$1 SLURM_ARRAY_TASK_COUNT=$META_tasks
            export SLURM_ARRAY_TASK_MIN=$LOWEST SLURM_ARRAY_TASK_MAX=$HIGHEST SLURM_ARRAY_TASK_STEP=1
            ((${#ARRAYS[@]} != 1)) || { read -r _ _ SLURM_ARRAY_TASK_STEP _ <<<"${ARRAYS[0]}"; }
            export SLURM_RESTART_COUNT=$(($2 - 1)) SLURM_CLUSTER_NAME=$META_cluster SLURM_SUBMIT_DIR=$WORK
            export SLURM_CPUS_PER_TASK=$CPUS SLURM_CPUS_ON_NODE=$CPUS SLURM_JOB_CPUS_PER_NODE=$CPUS
            export SLURM_JOB_NODELIST=$HOSTNAME SLURM_NODELIST=$HOSTNAME SLURMD_NODENAME=$HOSTNAME
            export SLURM_JOB_USER=$USER_NAME SLURM_NNODES=1 SLURM_JOB_NUM_NODES=1 SLURM_TASKS_PER_NODE=1
            export SLURM_NTASKS=1 SLURM_NPROCS=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
            ;;
        batch)
            export AWS_BATCH_JOB_ID=$JOB:$PMR_TASK_INDEX AWS_BATCH_JOB_ARRAY_INDEX=$PMR_TASK_INDEX
            export AWS_BATCH_JOB_ARRAY_SIZE=$META_tasks AWS_BATCH_JOB_ATTEMPT=$2
            ;;
        coiled) export COILED_BATCH_TASK_ID=$1 ;;
    esac
}

task_entry() { # base64; exports PMR_ENTRY, with every newline that it ends in
    PMR_ENTRY=$(base64 -d <<<"${1#=}" && printf x) || return
    export PMR_ENTRY=${PMR_ENTRY%x}
}

begin() { # task attempt; tells that it runs in this very process, before anything of it does
    local key=$1.$2
    join_cgroup
    record
    printf '%s\n' "$RECORD $CGROUP" >"$JOB_DIR/claims/$key"
    event S "$NOW" "$1" "$2" "$SLOT" "$BASHPID" "${STARTED:-0}"
    # Cancelled before there was a process to end; from here on there is one.
    [[ -L $JOB_DIR/why/$key ]] && kill -s TERM "$BASHPID"
    return 0
}

cgroup_home() { # sets CGROUPS to the folder below which attempts get cgroups of their own, or ""
    local number kind at root second='' first='' version=
    CGROUPS=
    # Other cgroups than that of the job's own scope are systemd's, or the agent's.
    [[ -n ${PMR_SCOPE-}${PMR_CGROUP-} ]] || return 0
    while IFS=: read -r number kind at; do
        case $number:$kind in
            0:)
                root=/sys/fs/cgroup
                [[ -e $root/cgroup.controllers ]] || root+=/unified
                second=${PMR_CGROUP:-$root}${at%/}
                ;;
            # Where version 2 is not mounted: the tree in which systemd of old keeps its units.
            *:name=systemd) first=/sys/fs/cgroup/systemd${at%/} ;;
        esac
    done </proc/self/cgroup
    for version in "$second" "$first"; do
        [[ -n $version && -w $version/cgroup.procs ]] || continue
        CGROUPS=$version/pmr-$JOB.$$
        mkdir "$CGROUPS" 2>/dev/null && printf '%s %s\n' "$BOOT" "$CGROUPS" >"$JOB_DIR/cgroups" && return
    done
    CGROUPS=
}

own_cgroup() { # sets CGROUP to one that no other attempt has had or will have, "" where there is none
    local pool=$CGROUPS/${SLOT_ID% *}.$((ATTEMPTS / 16)) at=$((ATTEMPTS % 16))
    CGROUP=
    [[ -n $CGROUPS ]] || return 0
    if ((at == 0)); then
        # A process for many of them: each costs as much as a short task.
        ((ATTEMPTS == 0)) || drop_cgroups
        mkdir -- "$pool".{0..15} 2>/dev/null
    fi
    [[ ! -d $pool.$at ]] || CGROUP=$pool.$at
    ATTEMPTS=$((ATTEMPTS + 1))
}

drop_cgroups() { # those of this slot that are empty
    rmdir -- "$CGROUPS/${SLOT_ID% *}."* 2>/dev/null
    return 0
}

join_cgroup() { # this very process; what it starts cannot leave, unless it is root
    [[ -n $CGROUP ]] || return 0
    { printf '%s' "$BASHPID" >"$CGROUP/cgroup.procs"; } 2>/dev/null || CGROUP=
}

become_task() { # task attempt; never returns
    begin "$1" "$2"
    exec </dev/null >>"$LOG" 2>&1 || not_started "$1.$2"
    # The task is the kernel's first choice when memory runs out, the runner its last.
    { printf 800 >/proc/self/oom_score_adj; } 2>/dev/null
    exec {PMR_NEVER}>&- {HELD}>&- {QUEUE}<&- {BELL}>&-
    { cd "$WORK" && task_environment "$1" "$2"; } || not_started "$1.$2"
    umask 022
    # What has a "=" in it would be a variable.
    [[ $SCRIPT != *=* ]] || SCRIPT=../../../jobs/$JOB/scripts/${SCRIPT##*/}
    exec ${AS_TASK[@]+"${AS_TASK[@]}"} "$SCRIPT"
}

run_task() { # task attempt
    local key=$1.$2 limit='' since code pid why=exit
    now
    if ! prepare "$key" 2>>"$JOB_DIR/errors"; then
        # Whoever ended it meanwhile counts for more.
        [[ ! -L $JOB_DIR/why/$key ]] || FAULT=$(readlink "$JOB_DIR/why/$key")
        event E "$NOW" "$1" "$2" - "$FAULT" "$NOW" "$SLOT"
        return
    fi
    local began=$NOW
    if [[ $META_timeout != 0 ]]; then
        time_limit "$key" &
        limit=$!
        started_at "$limit"
        since=$STARTED
    fi
    own_cgroup
    # With job control on, it gets a process group of its own, and does not ignore SIGINT and SIGQUIT.
    # With job control on, `wait` would take one that is only stopped for one that has ended.
    set -m
    (become_task "$1" "$2") &
    pid=$!
    set +m
    wait "$pid" 2>/dev/null
    code=$?
    if [[ -L $JOB_DIR/why/$key ]]; then
        # Whoever ends a task goes on until nothing of it is left; its end is not before that.
        why=$(readlink "$JOB_DIR/why/$key")
        [[ -n $limit && $why == timeout ]] && wait "$limit" 2>/dev/null
        [[ -z $limit && $why == timeout ]] && end_processes "$key" 5
        [[ $why == unstartable ]] && code=-
    fi
    [[ -z $limit ]] || signal_it TERM "$limit" "$since"
    now
    local ended=$NOW
    ((META_retries >= $2)) && [[ $code/$why != 0/exit && $why != cancelled ]] &&
        queue_again "$1" "$2"
    event E "$ended" "$1" "$2" "$code" "$why" "$began" "$SLOT"
}

occupy() { # task.attempt; the slot's file names it before its claim is made: the runner looks there
    # Over what is there: a file that is emptied first costs some file systems a write to the disk.
    printf '%-48s\n' "$1 $SLOT_ID" 1<>"$JOB_DIR/slots/$SLOT"
}

slot() { # number; claims and runs until the queue is empty, the job is cancelled or its runner dead
    local task attempt ATTEMPTS=0 looked=
    local -A LATER=()
    SLOT=$1 HELD_BACK=
    started_at "$BASHPID"
    SLOT_ID="$BASHPID ${STARTED:-0}"
    exec {QUEUE}<"$JOB_DIR/queue"
    while [[ ! -e $JOB_DIR/cancel && -e /proc/${RUNNER_ID% *} ]]; do
        # No other process gets its number within a second; to look closer costs a twentieth of a
        # short task.
        # shellcheck disable=SC2086 # splitting into words is meant
        [[ $SECONDS == "$looked" ]] || { lives $RUNNER_ID || break; }
        looked=$SECONDS
        if ! next_task; then
            let_in
            if ((${#LATER[@]} == 0)); then
                : >"$JOB_DIR/slots/$SLOT"
                # As long as others run, a client may still bring tasks.
                others_run || return
            fi
            pause 0.2
        elif [[ -n $HOLDS || -e $JOB_DIR/interrupted ]] && ! may_start "$task.$attempt"; then
            continue
        elif [[ ! -e $JOB_DIR/claims/$task.$attempt ]]; then
            occupy "$task.$attempt"
            if claim "$task.$attempt"; then
                run_task "$task" "$attempt"
            elif [[ ! -e $JOB_DIR/claims/$task.$attempt ]]; then
                # Nobody else has it: the disk takes no more files.
                now
                event E "$NOW" "$task" "$attempt" - unstartable "$NOW" "$SLOT"
            fi
        fi
    done
    let_in
}

forget_hole() { # task.attempt size; where the task has truncated the log since, what it holds is new
    local upto
    [[ -s $JOB_DIR/holes/$1 ]] || return 0
    read -r _ upto <"$JOB_DIR/holes/$1"
    ((upto <= $2)) || rm -f "$JOB_DIR/holes/$1"
}

cap_logs() { # keeps the head and the newest part of a log; the middle becomes a hole; sets LARGEST
    local file key size from upto half=$((META_log_cap / 2)) logs=()
    LARGEST=0
    for file in "$JOB_DIR"/slots/*; do
        { read -r key _ <"$file"; } 2>/dev/null && logs+=("$JOB_DIR/logs/$key")
    done
    ((${#logs[@]})) || return 0
    # One process for all logs: it is asked every few seconds, for as long as tasks run.
    while read -r size key; do
        ((size > LARGEST)) && LARGEST=$size
        forget_hole "${key##*/}" "$size"
        ((size > META_log_cap + META_log_cap / 8)) || continue
        key=${key##*/}
        from=$(((half + 4095) / 4096 * 4096)) upto=$(((size - half) / 4096 * 4096))
        # The hole is on record before it is made: a reader never takes zeros for the log.
        printf '%s %s\n' "$from" "$upto" >"$JOB_DIR/holes/$key.new" &&
            mv -f "$JOB_DIR/holes/$key.new" "$JOB_DIR/holes/$key" &&
            fallocate --punch-hole --offset "$from" --length $((upto - from)) "$JOB_DIR/logs/$key"
    done 2>/dev/null < <(stat -c '%s %n' -- "${logs[@]}")
}

flush() { # the ledger on disk, when it has grown since the last time
    local kind when task attempt code why began grew=
    while read -r -u "$FLUSHED" kind when task attempt code why began _; do
        grew=1
        [[ -z $META_timeout_percent ]] || take_time
    done
    [[ -z $META_timeout_percent ]] || end_slow
    [[ -z $grew ]] || sync "$JOB_DIR/events"
}

monitor() { # log caps, time limits, and the ledger on disk, about once a second, while the runner lives
    local tick next=0 step=1 TIMES=() TIMED=0 UNHEARD=0
    local -A BEGAN=()
    exec {FLUSHED}<"$JOB_DIR/events"
    for ((tick = 0; ; tick++)); do
        # shellcheck disable=SC2086 # splitting into words is meant
        lives $RUNNER_ID || return 0
        pause 1
        if ((tick >= next)); then
            cap_logs
            # Where logs are far from the cap, a process is not worth it every other second.
            step=$((LARGEST * 16 > META_log_cap ? 2 : step < 8 ? step * 2 : 8))
            next=$((tick + step))
        fi
        flush
        ((tick % 5)) || heed_notice
    done
}

slot_count() { # sets SLOTS; "auto" is one for each CPU
    SLOTS=$META_slots
    [[ $SLOTS == auto ]] && SLOTS=$(nproc)
    ((SLOTS > 0)) || SLOTS=1
    ((SLOT_CAP > 0 && SLOTS > SLOT_CAP)) && SLOTS=$SLOT_CAP
    return 0
}

start_slot() { # number; sets SLOT_IDS[number] to what it is known by
    # With job control on, what is put into the background does not ignore SIGINT and SIGQUIT.
    set -m
    { slot "$1"; printf '%s\n' "$1" >&"$BELL"; exit 0; } &
    set +m
    started_at "$!"
    SLOT_IDS[$1]="$! ${STARTED:-0}"
}

start_monitor() { # sets MONITOR to what it is known by
    monitor &
    started_at "$!"
    MONITOR="$! ${STARTED:-0}"
}

run_slots() { # until every slot has found the queue empty; another one follows where one was killed
    local number
    rm -f "$JOB_DIR/slots"/*
    for ((number = 0; number < SLOTS; number++)); do
        start_slot "$number"
    done
    while ((${#SLOT_IDS[@]})); do
        # A slot rings when it ends. One that was killed does not.
        if read -r -t 1 number <&"$BELL"; then
            reap_slot "$number"
            continue
        fi
        # shellcheck disable=SC2086 # splitting into words is meant
        for number in "${!SLOT_IDS[@]}"; do
            lives ${SLOT_IDS[number]} || reap_slot "$number"
        done
        # shellcheck disable=SC2086
        lives $MONITOR || start_monitor
    done
}

reap_slot() { # number; of one that has ended
    local id=${SLOT_IDS[$1]-}
    unset "SLOT_IDS[$1]"
    [[ -z $id ]] || wait "${id% *}" 2>/dev/null && return
    # Where the machine shuts down, this very process is about to be ended too.
    pause 1
    stopping && exit 1
    slot_died "$1"
    start_slot "$1"
}

slot_died() { # number; its task is ended, and lost
    local lock key='' file other
    { read -r key _ <"$JOB_DIR/slots/$1"; } 2>/dev/null
    : >"$JOB_DIR/slots/$1"
    now
    event J "$NOW" freed "$1"
    [[ -n $key && -e $JOB_DIR/claims/$key ]] || return 0
    for file in "$JOB_DIR"/slots/*; do
        # Both wanted it. If this one had it after all, that is found at the runner's end.
        { read -r other _ <"$file"; } 2>/dev/null && [[ $other == "$key" ]] && return
    done
    exec {lock}>"$JOB_DIR/lock"
    flock "$lock"
    lose_claims "$key"
    exec {lock}>&-
}

lose_claims() { # task.attempt or "" for all; those without an end are lost; the caller holds the lock
    local key FATE=lost
    unended || return
    for key in ${OPEN[@]+"${OPEN[@]}"}; do
        [[ -z $1 || $1 == "$key" ]] || continue
        end_of_lost "$key"
        if ((META_retries >= ${key#*.})) && [[ $WHY != cancelled ]]; then
            queue_next "${key%.*}" "${key#*.}"
        fi
        event E "$NOW" "${key%.*}" "${key#*.}" - "$WHY"
    done
}

runner() { # job
    local lock size SLOT_IDS=()
    open_job "$1" || exit 1
    # Nobody else writes to it, and it never reports an end.
    exec {BELL}<> <(:)
    # Every process of the runner has this one.
    never
    # Held by the runner and its slots for life: there is never a second runner of a job.
    exec {HELD}>"$JOB_DIR/runner.lock"
    flock -n "$HELD" || exit 0
    { printf -- -900 >/proc/self/oom_score_adj; } 2>/dev/null
    load_meta || exit 1
    load_manifest || exit 1
    run_user
    slot_count
    [[ $META_compat != slurm ]] || slurm_facts
    load_environment || USER_FAULT=unstartable
    hold_limits
    boot_id
    started_at "$$"
    RUNNER_ID="$$ $STARTED"
    cgroup_home
    # Nobody would believe that it lives, and tasks would run twice.
    printf '%s %s %s\n' "$$" "$STARTED" "$BOOT" >"$JOB_DIR/runner.new" ||
        { rm -f "$JOB_DIR/reserve" && printf '%s %s %s\n' "$$" "$STARTED" "$BOOT" >"$JOB_DIR/runner.new"; } || exit 1
    mv "$JOB_DIR/runner.new" "$JOB_DIR/runner" || exit 1
    keep_epoch "$JOB_DIR"
    now
    event J "$NOW" runner-started "$SLOTS" "$USER_NAME" "${PMR_DETACHED-}" "$BOOT"
    rm -f "$JOB_DIR/placed" "$JOB_DIR/interrupted"
    # Not at the commit: a send that is killed, or a power loss, may leave the ledger alone.
    { mkdir -p "$PMR_ROOT/work/$JOB" && chmod 711 "$PMR_ROOT/work" "$PMR_ROOT/work/$JOB"; } 2>>"$JOB_DIR/errors"
    forget_places
    places_ahead 2>>"$JOB_DIR/errors" &
    started_at "$!"
    PLACER="$! ${STARTED:-0}"
    start_monitor
    while :; do
        size=$(stat -c %s "$JOB_DIR/queue")
        run_slots
        # Whoever brings more tasks has the lock: they come before the end, or after it.
        exec {lock}>"$JOB_DIR/lock"
        flock "$lock"
        # Of a command that was killed, or a slot: no attempt is left without an end.
        lose_claims ''
        [[ $(stat -c %s "$JOB_DIR/queue") != "$size" ]] || break
        exec {lock}>&-
    done
    # shellcheck disable=SC2086 # splitting into words is meant
    signal_it TERM $MONITOR
    now
    event J "$NOW" runner-ended
    sync "$JOB_DIR/events"
    [[ -z $CGROUPS ]] || rmdir -- "$CGROUPS"/*/ "$CGROUPS" 2>/dev/null
    : >"$JOB_DIR/done"
}
