# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# The ledger of one instance: where its files are, events, claims, and what "running" means.

# For how long a runner has to be dead, in hundredths of a second, before that is put on record.
: "${PMR_SETTLE:=3000}"

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

runner_state() { # sets RUNNER to new, running, done, unsettled (dead, not on record yet) or dead
    local pid start boot
    RUNNER=new
    [[ -e $JOB_DIR/done ]] && RUNNER='done' && return
    [[ -s $JOB_DIR/runner ]] || return 0
    read -r pid start boot <"$JOB_DIR/runner"
    boot_id
    RUNNER=unsettled FATE=lost WHICH_DIED=$boot/$pid/$start
    [[ $boot == "$BOOT" || $BOOT == none ]] || FATE=rebooted
    if [[ $FATE == lost ]] && lives "$pid" "$start"; then
        RUNNER=running
    elif [[ -e $JOB_DIR/done ]]; then
        # It ended between the two looks.
        RUNNER='done'
    elif settled_here; then
        RUNNER=dead
    fi
}

settled_here() { # true when what became of a dead runner is on record, for this boot of the machine
    local boot=
    [[ -e $JOB_DIR/settled ]] || return
    read -r boot <"$JOB_DIR/settled"
    # One by an earlier version, or on a full disk, does not say.
    [[ -z $boot || $boot == "$BOOT" || $BOOT == none ]]
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
# A process id says nothing by itself: the kernel gives it to others, after a reboot at once. A
# signal goes only to a process that is proved to be the job's: by a record of pid, start time and
# boot id, or by the job's marker and the instance's id in the environment that it was started with.

is_it() { # pid start; true while that very process lives
    [[ -n ${2-} ]] && started_at "$1" && [[ $STARTED == "$2" ]]
}

lives() { # pid start; as is_it, and true where the machine cannot say
    is_it "$@" && return
    # What cannot be read now says nothing: a machine that is out of memory may have both.
    ((${#FIELDS[@]} == 0)) && [[ -n ${1-} && -e /proc/$1 ]]
}

signal_it() { # signal pid start; nothing happens where that process has ended
    is_it "$2" "${3-}" && kill -s "$1" "$2" 2>/dev/null
    return 0
}

carries() { # pid NAME=value; true when the process was started with that variable
    local entry
    while IFS= read -r -d '' entry; do
        [[ $entry == "$2" ]] && return 0
    done 2>/dev/null <"/proc/$1/environ"
    return 1
}

record() { # sets RECORD to what proves this very process, for as long as the machine is up
    [[ -n ${BOOT-} ]] || boot_id
    started_at "$BASHPID"
    RECORD="$BASHPID ${STARTED:-0} $BOOT ${FIELDS[3]-0}"
}

leader_of() { # task.attempt or ""; sets LEADER and what proves it, "none" without proof, and CGROUP
    local boot=
    LEADER=none LEADER_START=0 LEADER_SESSION='' CGROUP=''
    boot_id
    if [[ -z $1 ]]; then
        # Below it each attempt has one.
        { read -r boot CGROUP <"$JOB_DIR/cgroups"; } 2>/dev/null
    elif [[ -s $JOB_DIR/claims/$1 ]]; then
        read -r LEADER LEADER_START boot LEADER_SESSION CGROUP <"$JOB_DIR/claims/$1"
    fi
    [[ $boot == "$BOOT" && $BOOT != none && $CGROUP == */pmr-$JOB.* ]] || CGROUP=
    [[ -n $1 ]] || return 0
    [[ $LEADER.$LEADER_START != *[!0-9.]* && $boot == "$BOOT" && $BOOT != none ]] || LEADER=none
    # The number may be another's by now: then so is its group.
    started_at "$LEADER" && [[ $STARTED != "$LEADER_START" ]] && LEADER=none
    return 0
}

in_group() { # of the leader; FIELDS are of the process that is meant
    # As long as a process is in a group or session, no other gets the number: one alone might be a
    # stranger's whose leader has ended, as ours has; both together cannot.
    [[ ${FIELDS[2]} == "$LEADER" && ${FIELDS[3]} == "$LEADER_SESSION" ]] &&
        ((FIELDS[19] >= LEADER_START))
}

of_attempt() { # pid, whose FIELDS were just read; by the record, or by MARK
    [[ $1.${FIELDS[19]} == "$LEADER.$LEADER_START" ]] || in_group ||
        { carries "$1" "$MARK" && carries "$1" "PMR_INSTANCE_ID=${AWS_SSM_INSTANCE_ID-}"; }
}

holds_log() { # pid; its output is the attempt's log, which nobody but root can open by its name
    [[ -n $LOG_OF ]] && [[ /proc/$1/fd/1 -ef $LOG_OF || /proc/$1/fd/2 -ef $LOG_OF ]] &&
        ! carries "$1" "PMR_RUNNER=$JOB"
}

members_of() { # cgroup; adds what is in it, or below it, to PIDS
    local file pid
    for file in "$1"/cgroup.procs "$1"/*/cgroup.procs "$1"/*/*/cgroup.procs; do
        [[ -e $file ]] || continue
        while read -r pid; do
            [[ -z ${SINCE[pid]-} ]] && fields_of "$pid" && PIDS+=("$pid") SINCE[pid]=${FIELDS[19]}
        done <"$file"
    done
}

processes_of() { # task.attempt or "" for the whole job; sets PIDS, SINCE to their starts, and CGROUP
    local proc pid since MARK="PMR_JOB_ID=$JOB" LOG_OF='' LEADER LEADER_START LEADER_SESSION
    PIDS=() SINCE=()
    leader_of "$1"
    [[ -z $CGROUP ]] || members_of "$CGROUP"
    [[ -z $1 ]] || MARK=PMR_TASK_KEY=${JOB}_$1 LOG_OF=$JOB_DIR/logs/$1
    for proc in /proc/[0-9]*; do
        pid=${proc#/proc/}
        [[ $pid == "$$" || $pid == "$BASHPID" || $pid == 1 || -n ${SINCE[pid]-} ]] && continue
        fields_of "$pid" || continue
        since=${FIELDS[19]}
        if of_attempt "$pid" || holds_log "$pid"; then
            PIDS+=("$pid") SINCE[pid]=$since
        fi
    done
}

signal_all() { # signal; to each of PIDS that is still the process that was found
    local pid
    for pid in ${PIDS[@]+"${PIDS[@]}"}; do
        signal_it "$1" "$pid" "${SINCE[pid]}"
    done
}

kill_all() { # what is in PIDS, and in CGROUP, where what forks meanwhile cannot escape
    if [[ -n $CGROUP && -e $CGROUP/cgroup.kill ]]; then
        printf 1 >"$CGROUP/cgroup.kill"
    elif [[ -n $CGROUP && -e $CGROUP/cgroup.freeze ]]; then
        # Linux before 5.14.
        printf 1 >"$CGROUP/cgroup.freeze"
        members_of "$CGROUP"
        signal_all KILL
        printf 0 >"$CGROUP/cgroup.freeze"
    fi
    signal_all KILL
} 2>/dev/null

end_processes() { # task.attempt or ""; grace in seconds; sets PIDS to what survived
    local grace=$2 waited=0 CGROUP
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
        kill_all
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

stopping() { # true while the machine shuts down, which ends a job's processes before others
    local state
    command -v systemctl >/dev/null && [[ -d ${PMR_SYSTEMD:-/run/systemd/system} ]] || return
    state=$(timeout 5 systemctl is-system-running 2>/dev/null)
    # Where it cannot say so in time, it has other things to do.
    [[ $? == 124 || $state == stopping ]]
}

may_settle() { # true when a runner has been dead for long enough; else sets SETTLES, in seconds
    local up mark since
    # A machine that shuts down may have ended the runner, and will be another boot soon: nothing
    # is lost then but what ran. So the first look puts down when that was, by the boot's own clock.
    read -r up _ </proc/uptime
    up=${up/./} SETTLES=0
    mark=$(readlink "$JOB_DIR/died") && since=${mark##*/}
    if [[ ${mark%/*} != "$WHICH_DIED" || $since == *[!0-9]* ]]; then
        since=$up
        # A link keeps its word where a full disk would leave an empty file.
        ln -sfn "$WHICH_DIED/$up" "$JOB_DIR/died" || { rm -f "$JOB_DIR/reserve" && ln -sfn "$WHICH_DIED/$up" "$JOB_DIR/died"; }
    fi
    if ((up - since < PMR_SETTLE)); then
        SETTLES=$(((PMR_SETTLE - up + since) / 100 + 1))
        return 1
    fi
    ! stopping || { SETTLES=5 && return 1; }
}

end_of_lost() { # task.attempt; nothing of it runs any more; sets WHY and NOW for its end
    give_reason "$1" "$FATE"
    [[ $FATE == rebooted ]] || end_processes "$1" 0
    # Whoever ended it before counts for more.
    WHY=$(readlink "$JOB_DIR/why/$1") || WHY=$FATE
    now
}

settle() { # writes LOST for what a dead runner was running; once, under the job's lock; sets RUNNER
    local lock
    SETTLES=
    runner_state
    [[ $RUNNER == unsettled ]] || return 0
    [[ $FATE == rebooted ]] || may_settle || return 0
    exec {lock}>"$JOB_DIR/lock"
    flock "$lock"
    runner_state
    [[ $RUNNER != unsettled ]] || put_down_loss
    exec {lock}>&-
}

put_down_loss() { # of the runner that runner_state has found; the caller holds the lock
    local key WHY
    unended || return
    end_slots
    # Whatever ran before this boot has ended with it: one look by the job's marker is enough.
    [[ $FATE != rebooted ]] || end_processes '' 0
    for key in ${OPEN[@]+"${OPEN[@]}"}; do
        end_of_lost "$key"
        event E "$NOW" "${key%.*}" "${key#*.}" - "$WHY"
    done
    if [[ $FATE == rebooted ]]; then
        # The queue is intact. Another runner goes on with it once a client has looked: some of
        # what waits here may have been given to others meanwhile. What was settled before the
        # machine went down does not count any more.
        : >"$JOB_DIR/waits"
        [[ ! -e $JOB_DIR/settled ]] || { now && event J "$NOW" rebooted; }
    elif [[ ! -e $JOB_DIR/wanted ]]; then
        now
        event J "$NOW" runner-lost
        drop_job_cgroups
        printf '%s\n' "$BOOT" >"$JOB_DIR/settled"
        RUNNER=dead
        return
    fi
    drop_job_cgroups
    rm -f "$JOB_DIR"/{settled,wanted,runner,died}
    RUNNER=new
}

drop_job_cgroups() { # of a dead runner: those that are empty
    local LEADER LEADER_START LEADER_SESSION CGROUP
    leader_of ''
    [[ -z $CGROUP ]] || rmdir -- "$CGROUP"/*/ "$CGROUP" 2>/dev/null
    return 0
}

end_slots() { # a slot that outlived its runner would start further tasks
    local proc pid since
    for proc in /proc/[0-9]*; do
        pid=${proc#/proc/}
        fields_of "$pid" || continue
        since=${FIELDS[19]}
        # A local cloud without namespaces shows the runners of its other instances too.
        carries "$pid" "PMR_RUNNER=$JOB" &&
            carries "$pid" "AWS_SSM_INSTANCE_ID=${AWS_SSM_INSTANCE_ID-}" &&
            signal_it KILL "$pid" "$since"
    done
    return 0
}
