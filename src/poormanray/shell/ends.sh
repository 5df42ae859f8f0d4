# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# An instance's events told shortly: for whoever reads them once, and does not follow them.
#
# Each line of the ledger becomes one of these, its checksum tried here:
#   <task> <end> <took> <slot> [<attempt> <code>]    an end by itself; 1 and 0 are left out
#   =<words>                                         any other event
#   ?                                                a damaged one
# The task and its end are told as differences to those told before, times in microseconds. A start
# is left out where its end comes along: that says when it began, and in which slot.

verb_ends() { # as observe
    CONDENSED=1
    verb_observe "$@"
}

words_of() { # text of an event; sets WORDS; none where these are no words with one space between
    set -f
    # shellcheck disable=SC2206 # splitting into words is meant
    WORDS=($1)
    set +f
    [[ $1 == "${WORDS[*]-}" ]] || WORDS=()
}

are_numbers() { # words; true for digits without a zero before them
    local word
    for word; do
        [[ -n $word && $word != *[!0-9]* && $((10#$word)) == "$word" ]] || return
    done
}

short_end() { # sets SHORT to an end in WORDS, if it can be told shortly
    local at=${WORDS[1]/./} began=${WORDS[6]/./}
    are_numbers "$at" "$began" "${WORDS[2]}" "${WORDS[3]}" "${WORDS[4]}" "${WORDS[7]}" || return
    SHORT="$((WORDS[2] - TOLD_TASK)) $((at - TOLD_END)) $((at - began)) ${WORDS[7]}"
    [[ ${WORDS[3]}.${WORDS[4]} == 1.0 ]] || SHORT+=" ${WORDS[3]} ${WORDS[4]}"
    TOLD_TASK=${WORDS[2]} TOLD_END=$at
}

condense() { # the most bytes to read; tells whole lines of the events in $BOX/ends; sets READ
    local line text lines=() out=() at=0 key WORDS SHORT SUM TOLD_TASK=0 TOLD_END=0
    local -A starts=()
    READ=0
    # What is damaged may hold NULs, which bash drops: they count all the same.
    take "$JOB_DIR/events" "$EVENTS_AT" "$1" | tr '\000' '?' >"$BOX/events"
    mapfile lines <"$BOX/events"
    for line in ${lines[@]+"${lines[@]}"}; do
        # The last line may be on its way.
        [[ $line == *$'\n' ]] || break
        READ=$((READ + ${#line})) line=${line%?}
        text=${line% *}
        checksum "$text"
        out[at]='?'
        if [[ $line == "$text $SUM" ]]; then
            out[at]="=$text"
            words_of "$text"
            key=${WORDS[2]-}.${WORDS[3]-}
            case ${#WORDS[@]}${WORDS[0]-}${WORDS[1]-}${WORDS[5]-}${WORDS[6]-} in
                7S??????????.??????*) are_numbers "${WORDS[@]:2}" && starts[$key]=$at ;;
                8E??????????.??????exit??????????.??????)
                    if short_end; then
                        out[at]=$SHORT
                        [[ -z ${starts[$key]-} ]] || unset "out[${starts[$key]}]"
                        unset "starts[$key]"
                    fi
                    ;;
            esac
        elif [[ -z $line ]]; then
            unset "out[at]"
        fi
        at=$((at + 1))
    done
    printf '%s\n' ${out[@]+"${out[@]}"} >"$BOX/ends"
}
