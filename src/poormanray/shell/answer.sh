# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# What an instance answers: one envelope on stdout, nothing else, and always exit code 0.
#
#   PMR1 <more> <length> <sha256, 16 digits> <base64 of gzip of the body>
#
# Where something is missing that this needs, the answer is a line of plain text instead:
#
#   PMR0 missing <command> ...                      there are no such commands (send.sh)
#   PMR0 bash <version>                             bash is too old (base.sh)
#
# The body is a row of records; counts are bytes, and that many bytes follow the line:
#   k <key> <value>                                 a fact
#   e <offset> <count>                              part of the ledger's events
#   c <offset> <upto> <count> [<sum>]               what they tell from there up to there (ends.sh)
#   l <name> <offset> <count> <size>                part of a log; size is what it has now
#   h <name> <from> <upto>                          bytes of a log that are gone (its cap), told
#                                                   where they lie ahead of what was asked for
#   t <name> <offset> <size>                        the log is shorter than what was read before
#   j <job> <count>                                 a job's meta and summary
# A log named @last holds the last lines of what failed, "<task>.<attempt> <line>" (ends.sh).

begin_answer() { # everything that anything prints goes to a file, never to the agent
    exec {ANSWER_FD}>&1 >/dev/null 2>"$BOX/errors"
    : >"$BOX/facts"
    MORE=0 LINES_TOLD=
}

fact() { # key value
    printf 'k %s %s\n' "$1" "$2" >>"$BOX/facts"
}

say_errors() { # a verb that complained says so, instead of hiding it
    [[ -s $BOX/errors ]] || return 0
    fact stderr "$(tail -c 600 "$BOX/errors" | base64 -w 0)"
}

take() { # file offset count; that part on stdout
    tail -c "+$(($2 + 1))" "$1" | head -c "$3"
}

show() { # file, which is short and has no NULs; on stdout, without a process
    local lines
    mapfile lines <"$1"
    printf %s ${lines[@]+"${lines[@]}"}
}

size_of() { # file; sets SIZE, 0 where there is none; false where it cannot be told
    SIZE=$(stat -c %s "$1" 2>/dev/null) && return
    SIZE=0
    [[ ! -e $1 ]]
}

ledger_file() { # name in a request; sets FILE
    case $1 in
        @meta) FILE=$JOB_DIR/meta ;;
        @manifest | @env | @content | @mirror | @pack) FILE=$JOB_DIR/${1#@} ;;
        *) FILE=$JOB_DIR/logs/$1 ;;
    esac
}

hole_in() { # name; sets HOLE to from and upto of what the cap has removed of a log of SIZE bytes
    HOLE=(0 0)
    [[ ! -s $JOB_DIR/holes/$1 ]] || read -r -a HOLE <"$JOB_DIR/holes/$1"
    # The task has truncated the log since.
    ((HOLE[1] <= SIZE)) || HOLE=(0 0)
}

skip_hole() { # name; moves AT and LEFT so that they end before what the cap has removed, or follow it
    hole_in "$1"
    ((AT < HOLE[1])) || return 0
    # The whole of it: who reads on has no need to ask for any of that.
    printf 'h %s %s %s\n' "$1" "${HOLE[0]}" "${HOLE[1]}"
    if ((AT >= HOLE[0])); then
        LEFT=$((AT + LEFT > HOLE[1] ? AT + LEFT - HOLE[1] : 0)) AT=${HOLE[1]}
    elif ((AT + LEFT > HOLE[0])); then
        LEFT=$((HOLE[0] - AT)) MORE=1
    fi
}

add_job() { # file; what it says of the job that is open, as a record
    size_of "$1"
    printf 'j %s %s\n' "$JOB" "$SIZE" >>"$BOX/facts"
    cat "$1" >>"$BOX/facts"
}

add_log() { # name offset most; a record on stdout; lowers ROOM
    local name=$1 AT=$2 most=$3 LEFT HOLE before
    ledger_file "$name"
    # What is not answered is asked for again.
    size_of "$FILE" || return 0
    # A negative offset counts from the end.
    ((AT < 0)) && AT=$((SIZE + AT < 0 ? 0 : SIZE + AT))
    ((AT > SIZE)) && printf 't %s %s %s\n' "$name" "$AT" "$SIZE" && AT=0
    LEFT=$((SIZE - AT))
    ((most > 0 && LEFT > most)) && LEFT=$most
    skip_hole "$name"
    ((LEFT > ROOM)) && LEFT=$ROOM && MORE=1
    ROOM=$((ROOM - LEFT))
    printf 'l %s %s %s %s\n' "$name" "$AT" "$LEFT" "$SIZE"
    ((LEFT > 0)) || return 0
    before=${HOLE[1]}
    take "$FILE" "$AT" "$LEFT"
    # It grows while the log is read: then zeros may have been taken for the log.
    hole_in "$name"
    ((HOLE[1] == before)) || HOLE_MOVED=1
}

body() { # room for events and logs, in bytes; the whole body on stdout; sets USED to what they took
    local ROOM=$1 count spec name at most
    USED=0
    show "$BOX/facts"
    [[ -n ${JOB_DIR-} && -d $JOB_DIR ]] || return 0
    if [[ -n ${EVENTS_AT-} && -n ${EVENTS_SIZE-} ]]; then
        count=$((EVENTS_SIZE > EVENTS_AT ? EVENTS_SIZE - EVENTS_AT : 0))
        ((count > ROOM)) && count=$ROOM && MORE=1
        ROOM=$((ROOM - count))
        if [[ -n ${CONDENSED-} ]]; then
            condense "$count"
            printf 'c %s %s %s%s\n%s' "$EVENTS_AT" $((EVENTS_AT + READ)) ${#ENDS} "$ENDS_SUM" "$ENDS"
            last_lines
        else
            printf 'e %s %s\n' "$EVENTS_AT" "$count"
            ((count == 0)) || take "$JOB_DIR/events" "$EVENTS_AT" "$count"
        fi
    fi
    for spec in ${WANTED//,/ }; do
        IFS=: read -r name at most <<<"$spec"
        add_log "$name" "$at" "${most:-0}"
    done
    USED=$(($1 - ROOM))
}

answer() { # budget in characters of the envelope; as much as fits, and says when there is more
    local budget=$1 room length text sum with_lines=
    room=$((budget * 14))
    say_errors
    while :; do
        MORE=${MORE_FACTS:-0} HOLE_MOVED=
        body "$room" >"$BOX/body"
        [[ -z $HOLE_MOVED ]] || continue
        gzip -c <"$BOX/body" | base64 -w 0 >"$BOX/text"
        read -r text <"$BOX/text" || :
        length=${#text}
        if [[ -n $LINES_TOLD ]] && ((length + 40 > SMALL)); then
            # They must not make a large answer of a small one.
            with_lines=$text MOST_LINES=0
            continue
        fi
        ((length + 40 <= budget || room == 0)) && break
        room=$((USED * (budget - 40) * 9 / length / 10))
        ((room < 64)) && room=0
    done
    if [[ -n $with_lines ]] && ((length + 40 > SMALL && ${#with_lines} + 40 <= budget)); then
        text=$with_lines length=${#with_lines}
        printf %s "$text" >"$BOX/text"
    fi
    read -r sum _ < <(sha256sum <"$BOX/text")
    printf 'PMR1 %s %s %s %s\n' "$MORE" "$length" "${sum:0:16}" "$text" >&"$ANSWER_FD"
}

expired() { # a command that arrives after its time must not act: the agent may hand it over days later
    local clock
    printf -v clock '%(%s)T' -1
    fact clock "$clock"
    ((clock > NOT_AFTER)) || return 1
    fact refused expired
    WANTED='' EVENTS_AT='' JOB_DIR=''
    answer "$SMALL"
}
