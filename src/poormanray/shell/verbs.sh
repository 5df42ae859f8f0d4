# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# The verbs: what a client can ask of an instance. Each ends in one answer.

my_row() { # sets ROW to this instance's line of the call's table, without its id
    local id rest
    ROW=
    while read -r id rest; do
        [[ $id == "${AWS_SSM_INSTANCE_ID-}" || $id == '*' ]] && ROW=$rest
    done <<<"$TABLE"
}

tell_identity() { # what the job's id stands for here
    local digests=
    { IFS= read -r digests <"$JOB_DIR/identity"; } 2>/dev/null
    [[ -z $digests ]] || fact identity "${digests:0:80}"
}

runner_facts() {
    runner_state
    fact runner "$RUNNER"
    now
    fact now "$NOW"
    # It is put down when that was first seen; whether it counts is for a later look.
    [[ $RUNNER != unsettled || $FATE == rebooted ]] || may_settle || fact settles "$SETTLES"
    [[ ! -e $JOB_DIR/waits ]] || fact waits 1
    # Of its events only so much is told now: what comes later is for the next look.
    if whole "$JOB_DIR/events" "$MOST_EVENTS"; then
        EVENTS_TEXT=$TEXT EVENTS_SIZE=${#TEXT}
    else
        size_of "$JOB_DIR/events" && EVENTS_SIZE=$SIZE
    fi
    fact events "${EVENTS_SIZE-0}"
}

# --- start -----------------------------------------------------------------------------------

fetch() { # the job's bundle from a bucket, before the lock, for which others wait; sets FETCHED
    FETCHED='' REFUSAL=unpack
    [[ -n $SOURCE && ! -d $PMR_ROOT/jobs/$CALL_JOB ]] || return 0
    missing_parts
    [[ -n $MISSING ]] || return 0
    FETCHED=$STAGE/whole.$$
    mkdir -p "${FETCHED%/*}" || return
    REFUSAL=no-curl
    command -v curl >/dev/null || return
    REFUSAL=fetch
    # Not as a word of curl's: who knows the address needs no other right, and `ps` shows words.
    curl -sSf --retry 3 --connect-timeout 10 --max-time 600 -o "$FETCHED" -K - <<<"url = \"$SOURCE\"" ||
        { rm -f "$FETCHED"; return 1; }
}

gather() { # the job's bundle, from this very send, its staged parts or a bucket, to a file
    local part
    if ((PARTS == 0)); then
        tail -c "+$((BUNDLE_AT + 1))" "$SEND" >"$1"
        return
    elif [[ -n $FETCHED ]]; then
        mv -f "$FETCHED" "$1"
        return
    fi
    for ((part = 0; part < PARTS; part++)); do
        cat "$STAGE/$part" || return
    done >"$1"
}

missing_parts() { # sets MISSING to the numbers of the parts that have not arrived
    local part
    MISSING=
    for ((part = 0; part < PARTS; part++)); do
        [[ -e $STAGE/$part ]] || MISSING+=${MISSING:+,}$part
    done
}

sections() { # folder; stdin is the bundle: cut into its named parts, in order
    local name size
    # GNU head never reads more than it was asked for, so the next one goes on where it stopped.
    while read -r -u 9 name size; do
        head -c "$size" >"$1/$name" || return
    done 9<<<"$SECTIONS"
}

unpack() { # into a folder of its own; the commit is one rename
    local new=$1 sum
    mkdir -p "$new"/{claims,logs,why,holes,slots} "$new/scripts" &&
        gather "$new/bundle.gz" || return
    read -r sum _ < <(sha256sum "$new/bundle.gz")
    [[ $sum == "$DIGEST" ]] || { REFUSAL=digest; return 1; }
    # A part that ends too soon would be a script that does too little.
    (set -o pipefail && gzip -dc <"$new/bundle.gz" | sections "$new") || return
    rm -f "$new/bundle.gz"
    my_queue "$new/manifest" >"$new/queue" &&
        head -c "$LIBRARY_SIZE" "$SEND" >"$new/library.sh" &&
        head -c 65536 /dev/zero >"$new/reserve" &&
        printf '%s %s\n' "$LEDGER_FORMAT" "$WRITER" >"$new/format" && : >"$new/events" && room_for_events "$new" &&
        printf '%s\n' "$IDENTITY" >"$new/identity" && keep_epoch "$new" || return
    # Users run their own scripts by path, and see nothing else of the ledger.
    chmod 711 "$new" "$new/scripts"
    [[ $(stat -c %s "$new/reserve") == 65536 ]]
}

my_queue() { # manifest; "task attempt" for every id that is ours
    local kind id ids IDS
    while read -r kind id ids; do
        # There may be many lines of tasks after those of the queues.
        [[ $kind == [HQ] ]] || break
        [[ $kind == Q && $id == "${AWS_SSM_INSTANCE_ID-}" ]] || continue
        ids_of "$ids"
        ((${#IDS[@]} == 0)) || printf '%s 1\n' ${IDS[@]+"${IDS[@]}"} || return
    done <"$1"
}

commit() { # once for each job id, whatever is sent again
    local lock new=$PMR_ROOT/jobs/.new.$CALL_JOB
    mkdir -p "$PMR_ROOT/jobs" "$PMR_ROOT/stage" && chmod 711 "$PMR_ROOT" "$PMR_ROOT/jobs" || return
    fetch || { fact refused "$REFUSAL"; return 1; }
    exec {lock}>"$PMR_ROOT/lock"
    flock "$lock"
    if [[ -d $PMR_ROOT/jobs/$CALL_JOB ]]; then
        rm -f "$FETCHED"
        if ! open_job "$CALL_JOB"; then
            refuse_job
            exec {lock}>&-
            return 1
        fi
        same_job || { exec {lock}>&-; return 1; }
        fact committed before
    else
        missing_parts
        if [[ -n $MISSING && -z $FETCHED ]]; then
            fact missing "$MISSING"
            exec {lock}>&-
            return 1
        fi
        rm -rf "$new"
        REFUSAL=unpack
        if ! unpack "$new" || ! sync_tree "$new" || ! mv -T "$new" "$PMR_ROOT/jobs/$CALL_JOB"; then
            rm -rf "$new"
            exec {lock}>&-
            fact refused "$REFUSAL"
            return 1
        fi
        rm -rf "$PMR_ROOT/stage/$CALL_JOB"
        fact committed now
    fi
    launch
    exec {lock}>&-
}

same_job() { # true where the job that is here is that of this send; else tells what differs
    local here=(- -) sent=()
    { read -r -a here <"$PMR_ROOT/jobs/$CALL_JOB/identity"; } 2>/dev/null
    read -r -a sent <<<"$IDENTITY"
    [[ "${here[*]-}" != "${sent[*]-}" ]] || return 0
    local a=${here[0]-} b=${sent[0]-} what=content
    [[ $a != "$b" || ${here[1]-} == "${sent[1]-}" ]] || a=${here[1]-} b=${sent[1]-} what=instances
    fact refused "other-$what ${a:0:8} ${b:0:8}"
    return 1
}

sync_tree() { # what the commit promises is on disk before it
    sync "$1/meta" "$1/manifest" "$1/queue" "$1/content" "$1/env" "$1/library.sh" "$1/format" "$1/epoch" "$1/identity"
}

let_go() { # of every descriptor but the first three: the agent waits until its pipe is closed
    local fd
    for fd in /proc/"$BASHPID"/fd/*; do
        fd=${fd##*/}
        # 255 is bash's own, and is not inherited.
        ((fd > 2 && fd != 255)) && exec {fd}>&-
    done
    return 0
}

launch() { # starts the runner unless it was started before; the caller holds the lock
    local scope=() session=pmr-$CALL_JOB wishes
    open_job "$CALL_JOB" || return
    runner_state
    [[ $RUNNER == new && ! -e $JOB_DIR/waits ]] || return 0
    # The runner's own lock makes a second launch harmless, if it comes to that.
    LAUNCHED=1
    if [[ -d /run/systemd/system ]] && command -v systemd-run >/dev/null; then
        # Out of the agent's cgroup: neither its restart nor an out-of-memory kill takes us along.
        # It may make cgroups of its own there, one for each attempt.
        # OOMPolicy of a scope: systemd 253.
        for wishes in '-p Delegate=yes -p OOMPolicy=continue' '-p Delegate=yes' ''; do
            # shellcheck disable=SC2086 # splitting into words is meant
            systemd-run --quiet --scope $wishes -- true 2>/dev/null && break
        done
        # shellcheck disable=SC2206
        scope=(systemd-run --quiet --scope "--unit=$session" $wishes --)
    fi
    # The runner's own environment is small and known; what tasks see is built on it.
    local clean=(env -i "PATH=$PATH" "PMR_ROOT=$PMR_ROOT" "PMR_RUNNER=$CALL_JOB"
        "AWS_SSM_INSTANCE_ID=${AWS_SSM_INSTANCE_ID-}" "PMR_HOME=${PMR_HOME-}"
        ${PMR_HOST_MARK+"PMR_HOST_MARK=$PMR_HOST_MARK"}
        ${scope[0]+PMR_SCOPE=1} ${PMR_CGROUP+"PMR_CGROUP=$PMR_CGROUP"}
        ${AWS_EC2_METADATA_DISABLED+"AWS_EC2_METADATA_DISABLED=$AWS_EC2_METADATA_DISABLED"}
        ${PMR_IMDS+"PMR_IMDS=$PMR_IMDS"} ${PMR_PROC+"PMR_PROC=$PMR_PROC"})
    local run=(bash "$JOB_DIR/library.sh" runner "$CALL_JOB")
    # Out of screen's session: its end would be the end of all, and tasks could ask its terminal.
    if command -v screen >/dev/null &&
        (cd / && let_go && ${scope[@]+"${scope[@]}"} screen -dmS "$session" sh -c '"$@"; exit' - \
            setsid "${clean[@]}" PMR_DETACHED=screen "${run[@]}") </dev/null 2>/dev/null; then
        :
    else
        (cd / && let_go && ${scope[@]+"${scope[@]}"} setsid -f \
            "${clean[@]}" PMR_DETACHED=setsid "${run[@]}") </dev/null 2>/dev/null
    fi
}

verb_start() { # job and its identity (manifest.py: Identity); then observes for a first window
    CALL_JOB=$1 IDENTITY="${*:2}" STAGE=$PMR_ROOT/stage/$1/${DIGEST:0:16}
    if ! commit; then
        WANTED=
        answer "$SMALL"
        return
    fi
    verb_observe "$CALL_JOB"
}

# --- observe ---------------------------------------------------------------------------------

over() { # true when nothing more can come: no runner, or the queue's tasks have all ended
    local line
    [[ $RUNNER == @(done|dead|unsettled) ]] && return
    while IFS= read -r -u "$EVENTS_FD" line; do
        EVENTS_READ=$((EVENTS_READ + ${#line} + 1))
        [[ $line == 'E '* ]] && ENDED=$((ENDED + 1))
    done
    ((ENDED >= QUEUED))
}

open_news() { # sets NEWS and NEWS_FD: what to look at for growth, opened where reading left off
    local spec name at most fd
    NEWS=() NEWS_FD=()
    for spec in ${WANTED//,/ }; do
        IFS=: read -r name at most <<<"$spec"
        ledger_file "$name"
        NEWS+=("$FILE") NEWS_FD+=("")
        ((at > 0)) || continue
        { exec {fd}<"$FILE"; } 2>/dev/null || continue
        # It seeks in the descriptor that it shares with us, and reads nothing.
        dd bs=1 "skip=$at" count=0 <&"$fd" >/dev/null 2>&1
        NEWS_FD[${#NEWS_FD[@]} - 1]=$fd
    done
}

close_news() {
    local fd
    for fd in ${NEWS_FD[@]+"${NEWS_FD[@]}"}; do
        [[ -z $fd ]] || exec {fd}<&-
    done
}

grown() { # true when a log that was asked for, or the events, have more than was read
    local index byte
    # No process is started here: it is asked five times a second on every instance.
    ((EVENTS_WAKE)) && ((EVENTS_READ > EVENTS_AT)) && return
    for index in ${NEWS[@]+"${!NEWS[@]}"}; do
        if [[ -z ${NEWS_FD[index]} ]]; then
            [[ -s ${NEWS[index]} ]] && return
        elif IFS= read -r -n 1 -d '' -u "${NEWS_FD[index]}" byte; then
            return
        fi
    done
    return 1
}

wait_for_news() { # window in seconds; ends early when the job is over, or soon after news
    local tick=0 news=0 step=0.2 each_s=5 ticks EVENTS_FD EVENTS_READ=0 ENDED=0 QUEUED NEWS NEWS_FD queue
    # Where a look lasts long, hundreds of instances are looked at: none has to hurry.
    (($1 > 10)) && step=1 each_s=1
    ticks=$(($1 * each_s))
    open_news
    mapfile -t queue <"$JOB_DIR/queue"
    QUEUED=${#queue[@]}
    exec {EVENTS_FD}<"$JOB_DIR/events"
    while :; do
        runner_state
        over && break
        ((tick >= ticks)) && break
        if ((news > 0)); then
            # A little longer, so that what follows at once comes along.
            (((tick - news) * 3 > each_s)) && break
        elif grown; then
            # What was there before this look has waited long enough.
            ((tick == 0)) && break
            news=$tick
        fi
        pause "$step"
        tick=$((tick + 1))
    done
    close_news
    exec {EVENTS_FD}<&-
}

verb_observe() { # job; the row says: events offset, window, wake on events, budget, logs, mirror
    local window watch mirror
    if ! open_job "$1"; then
        refuse_job
        WANTED=
        answer "$SMALL"
        return
    fi
    settle
    # A client that died before the launch leaves a job without a runner.
    [[ -e $JOB_DIR/runner || -n ${LAUNCHED-} ]] || { CALL_JOB=$1 && launch; }
    my_row
    read -r EVENTS_AT window EVENTS_WAKE BUDGET WANTED mirror <<<"$ROW"
    [[ $EVENTS_AT == - ]] && EVENTS_AT=
    # Only who reads what the job is needs to see whether all have the same.
    [[ -z ${FOUND_BY-} && $WANTED != *@m* ]] || tell_identity
    [[ $WANTED == - ]] && WANTED=
    if [[ -n $mirror ]]; then
        exec {watch}>"$JOB_DIR/lock"
        flock "$watch"
        remember "$mirror"
        exec {watch}>&-
        tell_sealed
    fi
    # Whoever is to say that it may go on does so after this answer.
    [[ ! -e $JOB_DIR/waits ]] || window=0
    exec {watch}>"$JOB_DIR/watch"
    if ((window > 0)); then
        if flock -n "$watch"; then
            wait_for_news "$window"
        else
            # One watcher waits here; others must not take the agent's few workers as well.
            fact window busy
        fi
    fi
    exec {watch}>&-
    runner_facts
    answer "$BUDGET"
}

# --- queue -----------------------------------------------------------------------------------

verb_queue() { # job; the row says: events offset, what to adopt, what to give away and to whom,
    # who is lost, what to record, what to return, "resume" to undo a cancel
    local gives adopts lost records resume one lock most=$SMALL
    my_row
    read -r EVENTS_AT adopts gives lost records WANTED resume <<<"$ROW"
    WANTED=${WANTED#-}
    [[ -z $WANTED ]] || most=$LARGE
    open_job "$1" && [[ $resume == resume ]] && undo_cancel
    if [[ ! -d $JOB_DIR ]]; then
        refuse_job
    elif [[ -e $JOB_DIR/cancel ]]; then
        fact refused cancelled
    else
        settle
        exec {lock}>"$JOB_DIR/lock"
        flock "$lock"
        records=${records#-}
        # What a client has of an instance comes before the instance's records are closed.
        for one in ${records//;/ }; do
            [[ ${one%%/*} == *=* ]] || remember "$one"
        done
        if seal "${lost:-*}"; then
            for one in ${records//;/ }; do
                [[ ${one%%/*} != *=* ]] || remember "$one"
            done
            # What is to run again is queued here first, whoever gets it: so it runs once.
            [[ $adopts == - ]] || adopt "$adopts"
            for one in ${gives//[,-]/ }; do
                give_away "${one%%:*}" "${one#*:}"
            done
        else
            adopts=-
        fi
        tell_sealed
        exec {lock}>&-
        [[ $adopts == - ]] || run_again "$adopts"
        runner_facts
    fi
    answer "$most"
}

run_again() { # what was adopted; a runner for it, if there is none any more
    local lock
    exec {lock}>"$PMR_ROOT/lock"
    flock "$lock"
    CALL_JOB=$JOB
    # After a reboot it takes a client that has seen what was given to others meanwhile.
    [[ $1 != + ]] || rm -f "$JOB_DIR/waits"
    runner_state
    if [[ $RUNNER == @(done|dead) ]] && unclaimed; then
        rm -f "$JOB_DIR"/{done,runner,settled,died}
    elif [[ $RUNNER == unsettled ]]; then
        # Something of the dead one may run: another runner follows when that is settled.
        : >"$JOB_DIR/wanted"
    fi
    launch
    exec {lock}>&-
}

# --- cancel ----------------------------------------------------------------------------------

cancel_pending() { # task or ""; claims what has not started, so that it never will
    local task attempt
    while read -r task attempt _; do
        [[ -z $1 || $1 == "$task" ]] || continue
        if claim "$task.$attempt"; then
            now
            event E "$NOW" "$task" "$attempt" - cancelled
            CANCELLED[task]=1
        fi
    done <"$JOB_DIR/queue"
}

cancel_all() { # nothing of the job starts any more; false where that cannot be written down
    [[ ! -e $JOB_DIR/cancel ]] || return 0
    { : >"$JOB_DIR/cancel"; } 2>/dev/null || { rm -f "$JOB_DIR/reserve" && : >"$JOB_DIR/cancel"; } || return
    now
    event J "$NOW" cancelled
}

undo_cancel() {
    [[ -e $JOB_DIR/cancel ]] || return 0
    rm -f "$JOB_DIR/cancel"
    now
    event J "$NOW" resumed
}

verb_cancel() { # job task-or-dash grace-or-dash; without a grace, what runs goes on to its end
    local only=${2#-} key left=0 lock
    # By task: one attempt may be at its end while the next one waits already.
    WANTED='' EVENTS_AT='' CANCELLED=()
    if ! open_job "$1"; then
        refuse_job
    elif [[ -z $only ]] && ! cancel_all; then
        fact refused disk
    else
        # No claim without its end is seen by a runner that ends.
        exec {lock}>"$JOB_DIR/lock"
        flock "$lock"
        cancel_pending "$only"
        exec {lock}>&-
        OPEN=()
        [[ $3 == - ]] || unended
        for key in ${OPEN[@]+"${OPEN[@]}"}; do
            [[ -z $only || $only == "${key%.*}" ]] || continue
            give_reason "$key" cancelled
            CANCELLED[${key%.*}]=1
        done
        for key in ${OPEN[@]+"${OPEN[@]}"}; do
            [[ -z $only || $only == "${key%.*}" ]] || continue
            end_processes "$key" "$3"
            left=$((left + ${#PIDS[@]}))
        done
        [[ -z $only && $3 != - ]] && { end_processes '' 0; left=$((left + ${#PIDS[@]})); }
        fact survivors "$left"
        fact cancelled "${#CANCELLED[@]}"
        runner_facts
    fi
    answer "$SMALL"
}

# --- probe -----------------------------------------------------------------------------------

verb_probe() {
    WANTED='' EVENTS_AT=
    boot_id
    fact boot "$BOOT"
    fact screen "$(command -v screen || printf none)"
    fact bash "$BASH_VERSION"
    fact free_kb "$(df -Pk "$PMR_ROOT" 2>/dev/null | { read -r; read -r _ _ _ free _ && printf %s "$free"; })"
    answer "$SMALL"
}
