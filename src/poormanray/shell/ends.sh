# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# An instance's events told shortly: for whoever reads them once, and does not follow them.
#
# After three lines with one number for each end, a line for each event:
#   <task> [<attempt> <code>]   an end by itself; 1 and 0 are left out
#   =<words>                    any other event, its checksum tried here
#   ?                           a damaged one
# The three lines say when they ended, when they began, and in which slot. All but the slot are
# differences: the task and its end to those told before, the start to the end told before of that
# slot, or else of any; times are in milliseconds. So told, 300 tasks fit a small answer.
# Starts are left out where their ends come along, which say when they were. To try the checksums
# of ends takes longer than all the rest: their sum is told, and who reads them can write out each
# end and try it. Where that does not add up, it asks again with `each`, and they are tried here.

# How much of the end of a log is looked at for its last line, and of how many logs.
TAIL=400 MOST_LINES=200

verb_ends() { # which job (see find_job), cluster, [each]; else as observe
    CONDENSED=1 EACH=${3-}
    if find_job "$1" "$2"; then
        fact job "$JOB"
        FOUND_BY=${2#-}
        verb_observe "$JOB"
    else
        refuse_job
        WANTED='' EVENTS_AT='' JOB_DIR=''
        answer "$SMALL"
    fi
}

is_sound() { # line; sets text to it without its checksum; false where that is wrong
    text=${1% *}
    [[ $1 == *' '* ]] || text=
    checksum "$text"
    [[ ${1##* } == "$SUM" ]]
}

tell_sound() { # place among all, line; tells it there, or that it is damaged
    is_sound "$2" && out[$1]="=$text" || out[$1]='?'
}

event_lines() { # the most bytes to read; sets lines to whole ones, and READ to their bytes
    local all='' last
    if ((EVENTS_AT == 0 && EVENTS_SIZE <= $1)); then
        mapfile lines <"$JOB_DIR/events"
        printf -v all %s ${lines[@]+"${lines[@]}"}
    fi
    if ((${#all} < EVENTS_SIZE)); then
        # What is damaged may hold NULs, which bash drops: they count all the same.
        need_box
        take "$JOB_DIR/events" "$EVENTS_AT" "$1" | tr '\000' '?' >"$BOX/events"
        mapfile lines <"$BOX/events"
        printf -v all %s ${lines[@]+"${lines[@]}"}
    fi
    READ=${#all} last=$((${#lines[@]} - 1))
    ((last >= 0)) && [[ ${lines[last]} != *$'\n' ]] || return 0
    # It may be on its way.
    READ=$((READ - ${#lines[last]}))
    unset "lines[last]"
}

last_lines() { # of the logs of what failed, as a record in BODY; sets LINES_TOLD
    local key TOLD='' files=()
    LINES_TOLD=
    ((0 < ${#FAILED[@]} && ${#FAILED[@]} <= MOST_LINES)) || return 0
    for key in ${FAILED[@]+"${FAILED[@]}"}; do
        if whole "$JOB_DIR/logs/$key" "$MOST_LOG"; then
            last_line_of "$key" "${TEXT:${#TEXT} < TAIL ? 0 : ${#TEXT} - TAIL}"
        else
            files+=("$JOB_DIR/logs/$key")
        fi
    done
    ((${#files[@]} == 0)) || last_lines_of ${files[@]+"${files[@]}"}
    [[ -n $TOLD ]] || return 0
    BODY+="l @last 0 ${#TOLD} ${#TOLD}"$'\n'$TOLD
    LINES_TOLD=1
}

last_line_of() { # task.attempt, the end of its log; adds its last line to TOLD
    local line=${2//$'\r'/$'\n'}
    line=${line%"${line##*[![:space:]]}"}
    TOLD+="$1 ${line##*$'\n'}"$'\n'
}

last_lines_of() { # long logs; adds the last line of each to TOLD
    local line lines tails sizes=() at=0
    # All in one go, as each process costs as much as all the rest.
    need_box
    stat -c '%s %n' -- "$@" >"$BOX/sizes" 2>/dev/null
    mapfile -t sizes <"$BOX/sizes"
    ((${#sizes[@]} > 0)) || return 0
    tail -q -c "$TAIL" -- "${sizes[@]#* }" >"$BOX/tails"
    mapfile lines <"$BOX/tails"
    printf -v tails %s ${lines[@]+"${lines[@]}"}
    for line in ${sizes[@]+"${sizes[@]}"}; do
        last_line_of "${line##*/}" "${tails:at:TAIL}"
        at=$((at + (${line%% *} < TAIL ? ${line%% *} : TAIL)))
    done
    # A NUL, or who writes on after a task's end, would shift all that follows.
    ((at == ${#tails})) || TOLD=
}

condense() { # the most bytes to read; sets ENDS to what whole lines of the events tell, and READ
    local line text at began SUM next=0 sum=0 task=0 end=0 ends='' begins='' slots=''
    # By slot: the start that has no end yet, its task.attempt, and its place among all.
    local starts=() keys=() places=() lines=() out=()
    local -A slot_end=()
    ENDS_SUM='' FAILED=()
    event_lines "$1"
    set -f
    for line in ${lines[@]+"${lines[@]}"}; do
        # shellcheck disable=SC2086 # splitting into words is meant
        set -- $line
        # What nearly all lines are takes few steps: there may be thousands.
        case $#${1-}${2-}${6-}${7-}${9-} in
            8S*)
                # Tried later, if it is told at all: most are not.
                if [[ $3$4$5 != *[!0-9]* && ${#5} -lt 9 && -z ${keys[10#$5]-} ]]; then
                    keys[10#$5]=$3.$4 starts[10#$5]=${line%?} places[10#$5]=$((next++))
                    continue
                fi
                ;;
            9E??????????.???exit??????????.???????????)
                at=${2/./} began=${7/./}
                if [[ $3$4$5$8$at$began != *[!0-9]* && $9 != *[!0-9a-f]* && ${#3}${#8} == [1-9][1-8] ]] &&
                    [[ $line == "$*"$'\n' && (-z $EACH || " $3 $8 $at $began" != *' 0'[0-9]*) ]] &&
                    { [[ -z $EACH ]] || is_sound "${line%?}"; }; then
                    out[next]=$((10#$3 - task))
                    [[ $4.$5 == 1.0 ]] || out[next]+=" $4 $5"
                    ((10#$5 == 0)) || FAILED+=("$3.$4")
                    ends+="$((10#$at - end)) " begins+="$((10#$began - ${slot_end[$8]-$end})) " slots+="$8 "
                    task=$((10#$3)) end=$((10#$at)) sum=$((sum + 16#$9)) next=$((next + 1)) slot_end[$8]=$end
                    [[ ${keys[10#$8]-} != "$3.$4" ]] || keys[10#$8]=
                    continue
                fi
                ;;
        esac
        [[ $line != $'\n' ]] || continue
        [[ ${1-}${6-} != Etimeout || $3.$4 == *[!0-9.]* ]] || FAILED+=("$3.$4")
        tell_sound $((next++)) "${line%?}"
    done
    set +f
    for at in ${keys[@]+"${!keys[@]}"}; do
        [[ -z ${keys[at]} ]] || tell_sound "${places[at]}" "${starts[at]}"
    done
    printf -v ENDS '%s\n' "$ends" "$begins" "$slots" ${out[@]+"${out[@]}"}
    [[ -n $EACH ]] || ENDS_SUM=" $((sum & 0xffffffff))"
}
