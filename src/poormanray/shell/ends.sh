# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# An instance's events told shortly: for whoever reads them once, and does not follow them.
#
# Each line of the ledger becomes one of these, its checksum tried here:
#   <task> <end> <start> <slot> [<attempt> <code>]   an end by itself; 1 and 0 are left out
#   =<words>                                         any other event
#   ?                                                a damaged one
# Numbers are differences: the task and its end to those told before, the start to the end told
# before of that slot, or else of any; times are in microseconds. Starts are left out where their
# ends come along, which say when they were.

verb_ends() { # as observe
    CONDENSED=1
    verb_observe "$@"
}

is_sound() { # line; sets text to it without its checksum; false where that is wrong
    text=${1% *}
    checksum "$text"
    [[ $1 == "$text $SUM" ]]
}

short_end() { # words of an end; sets SHORT, if it can be told shortly
    local at=${2/./} began=${7/./}
    [[ $3$4$5$8$at$began != *[!0-9]* && " $3 $4 $5 $8 $at $began" != *' 0'[0-9]* ]] || return
    ((${#3} < 10 && ${#8} < 10)) || return
    SHORT="$(($3 - TOLD_TASK)) $((at - TOLD_END)) $((began - ${SLOT_END[$8]-$TOLD_END})) $8"
    [[ $4.$5 == 1.0 ]] || SHORT+=" $4 $5"
    TOLD_TASK=$3 TOLD_END=$at SLOT_END[$8]=$at
}

condense() { # the most bytes to read; tells whole lines of the events in $BOX/ends; sets READ
    local line text lines=() out=() at=0 key SHORT SUM TOLD_TASK=0 TOLD_END=0 SLOT_END=()
    local -A starts=()
    READ=0
    # What is damaged may hold NULs, which bash drops: they count all the same.
    take "$JOB_DIR/events" "$EVENTS_AT" "$1" | tr '\000' '?' >"$BOX/events"
    mapfile lines <"$BOX/events"
    set -f
    for line in ${lines[@]+"${lines[@]}"}; do
        # The last line may be on its way.
        [[ $line == *$'\n' ]] || break
        READ=$((READ + ${#line})) line=${line%?}
        [[ -n $line ]] || continue
        # shellcheck disable=SC2086 # splitting into words is meant
        set -- $line
        case $#${1-}${2-}${6-}${7-} in
            8S*)
                # Tried later, if it is told at all: most are not.
                [[ $3.$4 == *[!0-9.]* ]] || starts[$3.$4]=$at
                out[at++]=$line
                continue
                ;;
            9E??????????.??????exit??????????.??????)
                if is_sound "$line" && [[ $line == "$*" ]] && short_end "$@"; then
                    out[at++]=$SHORT key=$3.$4
                    [[ -z ${starts[$key]-} ]] || unset "out[${starts[$key]}]"
                    unset "starts[$key]"
                    continue
                fi
                ;;
        esac
        is_sound "$line" && out[at++]="=$text" || out[at++]='?'
    done
    set +f
    for at in ${out[@]+"${!out[@]}"}; do
        line=${out[at]}
        [[ $line != S* ]] || { is_sound "$line" && out[at]="=$text" || out[at]='?'; }
    done
    printf '%s\n' ${out[@]+"${out[@]}"} >"$BOX/ends"
}
