# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# How far a job is on this instance, folded from its events here, so that it fits a small answer.
# What an event means is written in ledger.py (EventLog); both must say the same.

LAST_LINE=200

micros() { # seconds of an event; sets US to microseconds
    local whole=${1%%.*} part=
    [[ $1 == *.* ]] && part=${1#*.}
    [[ -n $whole && $whole$part != *[!0-9]* && ${#whole} -le 11 && ${#part} -le 9 ]] || return
    [[ $1 == *. ]] && return 1
    part=${part}000000
    US=$((10#$whole * 1000000 + 10#${part:0:6}))
}

is_number() { # text
    [[ -n $1 && $1 != *[!0-9]* && ${#1} -le 9 && ($1 == 0 || $1 != 0*) ]]
}

is_sum() { # text
    [[ ${#1} == 8 && $1 != *[!0-9a-f]* ]]
}

is_attempt() { # task attempt
    is_number "$1" && is_number "$2" && (($2 <= 1000))
}

is_ours() { # task attempt
    is_attempt "$1" "$2" && [[ -n ${OURS[$1]-} ]]
}

came() { # task.attempt,...; tasks that were adopted
    local key
    for key in ${1//,/ }; do
        is_attempt "${key%.*}" "${key#*.}" || return
    done
    for key in ${1//,/ }; do
        OURS[${key%.*}]=1
        unset "GIVEN[$key]"
        [[ -n ${SEEN[$key]-} ]] || opened "${key%.*}" "${key#*.}"
    done
}

went() { # task.attempt,... host; tasks that were given away
    local key
    for key in ${1//,/ }; do
        is_ours "${key%.*}" "${key#*.}" || return
        GIVEN[$key]=$2
        [[ ${OPENED[${key%.*}]-} == "${key#*.}" ]] && OPENED[${key%.*}]=0
    done
    return 0
}

opened() { # task attempt
    ((${OPENED[$1]:-0} < $2)) && OPENED[$1]=$2
    return 0
}

put() { # task attempt state; false for an attempt that had ended: an end is final
    [[ ${SEEN[$1.$2]-} != ended ]] || return
    SEEN[$1.$2]=ended
    [[ $3 == running ]] && SEEN[$1.$2]=running
    ((${NEWEST[$1]:-0} <= $2)) && NEWEST[$1]=$2 STATE[$1]=$3
    return 0
}

started() { # when task attempt slot
    is_ours "$2" "$3" && is_number "$4" && micros "$1" || return
    put "$2" "$3" running || return 0
    BEGAN[$2.$3]=$US
    ((FIRST == 0 || US < FIRST)) && FIRST=$US
    opened "$2" "$3"
}

took() { # task.attempt, from when, until when
    # The clock may have been set back meanwhile.
    local long=$(($3 > $2 ? $3 - $2 : 0))
    TOOK[$1]=$long
    ((RAN += 1, BUSY += long, LAST = $3 > LAST ? $3 : LAST, FIRST = FIRST == 0 || $2 < FIRST ? $2 : FIRST))
}

ended() { # when task attempt code reason [began slot]
    local state code=$4 began=${BEGAN[$2.$3]-} at
    is_ours "$2" "$3" || return
    [[ $code == - ]] || { is_number "$code" && ((code <= 255)); } || return
    [[ -z ${6-} ]] || { micros "$6" && began=$US; } || return
    [[ -z ${7-} ]] || is_number "$7" || return
    micros "$1" || return
    at=$US
    case $5.$code in
        exit.0) state=succeeded ;;
        exit.[0-9]*) state=failed ;;
        timeout.* | cancelled.*) state=$5 ;;
        *) state=lost ;;
    esac
    put "$2" "$3" "$state" || return 0
    [[ ${OPENED[$2]-} == "$3" ]] && OPENED[$2]=0
    if [[ $code != - && -n $began ]]; then
        took "$2.$3" "$began" "$at"
    fi
    [[ $state == succeeded ]] || BAD+=("$2 $3 $state $code ${5//[!a-z-]/_} $at")
    return 0
}

runner_says() { # what slots user detached
    case $1 in
        runner-started) is_number "$2" && SLOTS=$2 DETACHED=${4//[!a-z]/} HELD=() NOTICE='' ;;
        runner-lost | rebooted) HELD=() ;;
        held)
            is_number "$3" && (($3 < SLOTS)) || return
            HELD[$3]=load
            [[ $2 != memory ]] || HELD[$3]=memory
            ;;
        freed) is_number "$2" && unset "HELD[$2]" ;;
        interrupted)
            [[ -n $2 && -n $3 && $2 != *[!a-z-]* && $3 != *[!0-9TZ:.-]* && ${#2} -le 20 && ${#3} -le 30 ]] && NOTICE=$2/$3
            ;;
        cancelled) CANCELLED_JOB=1 ;;
        resumed) CANCELLED_JOB=0 ;;
    esac
}

read_event() { # words of a line; false where it is none of ours
    # Checksums are for clients that need each task: what broke off does not end so.
    is_sum "${!#}" || return
    case $1 in
        S) (($# > 5)) && started "$2" "$3" "$4" "$5" ;;
        E) (($# > 6)) && ended "${@:2:$#-2}" ;;
        A) (($# == 4)) && came "$3" ;;
        G) (($# == 5)) && is_number "$3" && went "$4" "$3" ;;
        J) runner_says "${3-}" "${4-}" "${5-}" "${6-}" ;;
    esac
}

mine() { # sets IDS to the tasks that were spread to this instance; SPREAD to their number, -1 where it joined later
    local index
    IDS=()
    mapfile -t MANIFEST <"$JOB_DIR/manifest"
    for ((index = 0; index < ${#MANIFEST[@]}; index++)); do
        case ${MANIFEST[index]} in
            "Q ${AWS_SSM_INSTANCE_ID-} "*) ids_of "${MANIFEST[index]##* }" && SPREAD=${#IDS[@]} && break ;;
            [TR]*) break ;;
        esac
    done
    return 0
}

fold() { # all events, into the variables of verb_summary
    local line lines=() IDS at began
    mine
    for line in ${IDS[@]+"${IDS[@]}"}; do
        OURS[$line]=1 OPENED[$line]=1
    done
    mapfile lines <"$JOB_DIR/events"
    set -f
    for line in ${lines[@]+"${lines[@]}"}; do
        # The last line may be on its way.
        [[ $line == *$'\n' ]] || break
        # shellcheck disable=SC2086 # splitting into words is meant
        set -- $line
        # What nearly all lines are is taken here, where it costs a third of what read_event does:
        # a first start, and its success. Times have ten digits before the point and three after it.
        case $#${1-}${2-} in
            8S??????????.???)
                at=${2/./}000
                [[ ${OPENED[$3]-}.${NEWEST[$3]-}${SEEN[$3.$4]-}.${#8} == "$4..8" &&
                    $at$5 != *[!0-9]* && $at != 0* && $8 != *[!0-9a-f]* ]] && {
                    SEEN[$3.$4]=running NEWEST[$3]=$4 STATE[$3]=running BEGAN[$3.$4]=$at
                    ((FIRST == 0 || at < FIRST)) && FIRST=$at
                    continue
                }
                ;;
            9E??????????.???)
                at=${2/./}000 began=${7/./}000
                [[ $5$6$7${#9} == 0exit??????????.???8 && $at$began$8 != *[!0-9]* && $at != 0* &&
                    $began != 0* && $9 != *[!0-9a-f]* && ! $began > $at &&
                    ${OPENED[$3]-}.${NEWEST[$3]-}${SEEN[$3.$4]-} == "$4.$4running" ]] && {
                    SEEN[$3.$4]=ended STATE[$3]=succeeded OPENED[$3]=0 TOOK[$3.$4]=$((at - began))
                    ((RAN += 1, BUSY += at - began, FIRST = began < FIRST ? began : FIRST, LAST = at > LAST ? at : LAST))
                    continue
                }
                ;;
        esac
        (($# == 0)) || read_event "$@" || DAMAGED=$((DAMAGED + 1))
    done
    set +f
}

count() { # what each task that is ours now has come to; sets COUNT, UNDER, SLOWEST and GAVE
    local key task attempt state long least=-1 last=0
    local -A away=() gave=()
    for key in ${GIVEN[@]+"${!GIVEN[@]}"}; do
        task=${key%.*} attempt=${key#*.}
        ((${away[$task]:--1} < attempt)) && away[$task]=$attempt
        gave[${GIVEN[$key]}]=$((${gave[${GIVEN[$key]}]:-0} + 1))
    done
    for key in ${gave[@]+"${!gave[@]}"}; do
        GAVE+=${GAVE:+,}$key:${gave[$key]}
    done
    now
    micros "$NOW"
    for task in ${OURS[@]+"${!OURS[@]}"}; do
        attempt=${NEWEST[$task]:-0} state=${STATE[$task]-}
        ((${OPENED[$task]:-0} > attempt)) && attempt=${OPENED[$task]} state=pending
        # A later attempt that went elsewhere stands for those before it.
        if [[ -z $state || ${away[$task]:--1} -gt $attempt ]]; then
            unset "OURS[$task]"
            continue
        fi
        COUNT[$state]=$((${COUNT[$state]} + 1)) key=$task.$attempt
        [[ $state == running ]] && UNDER=$((UNDER + US - BEGAN[$key]))
        long=${TOOK[$key]:--1}
        ((long > least || (long == least && task < last))) && slow "$long" "$task $attempt"
    done
}

slow() { # microseconds, task and attempt; keeps the slowest few, in their order; sets least and last
    local at=${#SLOWEST[@]} than
    for (( ; at > 0; at--)); do
        than=${SLOWEST[at - 1]% *}
        (($1 > ${than% *} || ($1 == ${than% *} && ${2% *} < ${than#* }))) || break
        SLOWEST[at]=${SLOWEST[at - 1]}
    done
    SLOWEST[at]="$1 $2"
    ((${#SLOWEST[@]} <= MOST_SLOW)) || unset "SLOWEST[MOST_SLOW]"
    ((${#SLOWEST[@]} < MOST_SLOW)) && return
    than=${SLOWEST[MOST_SLOW - 1]% *}
    least=${than% *} last=${than#* }
}

name_of() { # task; sets NAME to what the manifest has (base64), at most 48 bytes of it
    local line='' at=$((${#MANIFEST[@]} - META_tasks + $1))
    NAME=-
    # There it is where tasks are numbered without gaps.
    ((at < 0)) || line=${MANIFEST[at]-}
    if [[ $line != "T $1 "* ]]; then
        for line in ${MANIFEST[@]+"${MANIFEST[@]}"}; do
            [[ $line == "T $1 "* ]] && break
        done
        [[ $line == "T $1 "* ]] || return 0
    fi
    read -r _ _ _ NAME _ <<<"$line"
    ((${#NAME} <= 64)) || NAME=${NAME:0:64}~
}

last_line() { # task.attempt bytes; sets LAST_TEXT to the last line of its log that is not empty (base64)
    local line
    LAST_TEXT='='
    [[ -s $JOB_DIR/logs/$1 ]] || return 0
    if whole "$JOB_DIR/logs/$1" "$MOST_LOG"; then
        line=${TEXT:${#TEXT} < 4096 ? 0 : ${#TEXT} - 4096} line=${line//$'\r'/$'\n'}
    else
        line=$(tail -c 4096 "$JOB_DIR/logs/$1" | tr '\000\r' '?\n')
    fi
    line=${line%"${line##*[![:space:]]}"}
    line=${line##*$'\n'}
    [[ -z $line ]] || LAST_TEXT=$(base64 -w 0 < <(printf %s "${line:0:$2}"))
    ((${#line} <= $2)) || LAST_TEXT+='~'
}

tell() { # how many of the slowest and of the failed; sets TOLD to the job's meta and what it has come to
    local state index told=0 task attempt code why at line
    whole "$JOB_DIR/meta" "$MOST_LOG"
    TOLD=$TEXT
    for state in pending running succeeded failed timeout cancelled lost; do
        TOLD+="n_$state=${COUNT[$state]}"$'\n'
    done
    printf -v line '%s\n' "runner=$RUNNER" "slots_now=$SLOTS" "detached=$DETACHED" "damaged=$DAMAGED" \
        "cancelled_job=$CANCELLED_JOB" "first=$FIRST" "last=$LAST" "now=$US" "ran=$RAN" "busy=$BUSY" \
        "under=$UNDER" "spread=$SPREAD" "gave=$GAVE" "waits=$WAITS" \
        "held=${HELD[*]-}" "notice=$NOTICE"
    TOLD+=$line
    for ((index = 0; index < $1 && index < ${#SLOWEST[@]}; index++)); do
        read -r at task attempt <<<"${SLOWEST[index]}"
        name_of "$task"
        TOLD+="slow$index=$task $attempt $at $NAME"$'\n'
    done
    for ((index = ${#BAD[@]} - 1; index >= 0 && told < $1; index--)); do
        read -r task attempt state code why at <<<"${BAD[index]}"
        [[ -n ${OURS[$task]-} && ${NEWEST[$task]} == "$attempt" && ${OPENED[$task]} -le $attempt ]] ||
            continue
        name_of "$task"
        last_line "$task.$attempt" $(($1 > 1 ? LAST_LINE : LAST_LINE / 2))
        TOLD+="bad$told=$task $attempt $state $code ${why:0:60} $at $NAME $LAST_TEXT"$'\n'
        told=$((told + 1))
    done
}

verb_summary() { # which job (see find_job), cluster, how many of the slowest and of the failed
    local most=$3 text TOLD MOST_SLOW=$3 MANIFEST=() BAD=() SLOWEST=()
    local -A OURS=() OPENED=() NEWEST=() STATE=() SEEN=() BEGAN=() TOOK=() GIVEN=()
    local -A COUNT=([pending]=0 [running]=0 [succeeded]=0 [failed]=0 [timeout]=0 [cancelled]=0 [lost]=0)
    local US FIRST=0 LAST=0 RAN=0 BUSY=0 UNDER=0 SLOTS=0 DETACHED='' DAMAGED=0 CANCELLED_JOB=0
    local SPREAD=-1 GAVE='' WAITS=0 HELD=() NOTICE=''
    WANTED='' EVENTS_AT=''
    if find_job "$1" "$2"; then
        settle
        # As in observe: a client that died before the launch leaves a job without a runner.
        [[ -e $JOB_DIR/runner ]] || { CALL_JOB=$JOB && launch; }
        load_meta
        is_number "$META_tasks" || META_tasks=0
        runner_state
        [[ ! -e $JOB_DIR/waits ]] || WAITS=1
        fold
        count
        while :; do
            tell "$most"
            ((${#TOLD} < SMALL - 200 || most == 0)) && break
            text=$(printf %s "$TOLD" | gzip -c | base64 -w 0)
            ((${#text} < SMALL - 200)) && break
            most=$((most / 2))
        done
        add_job "$TOLD"
        tell_identity
    else
        refuse_job
    fi
    JOB_DIR=
    answer "$SMALL"
}
