# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# What an instance answers: one envelope on stdout, nothing else, and always exit code 0.
#
#   PMR1 <more> <length> <sha256, 16 digits> <base64 of gzip of the body>
#   PMRT <more> <length> <checksum of the body> <the body, with a tab for each newline>
#
# The second one takes no process: a short body of printable characters is sent so. Where something
# is missing that this needs, the answer is a line of plain text instead:
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

# Up to so many bytes, to read a file whole takes less than a process that would read a part of it.
MOST_EVENTS=131072 MOST_LOG=32768

begin_answer() { # nothing that anything prints goes to the agent
    exec {ANSWER_FD}>&1 >/dev/null 2>/dev/null
    [[ ! -d $BOX ]] || exec 2>"$BOX/errors"
    FACTS='' MORE=0 LINES_TOLD='' EVENTS_TEXT='' IN_FILE=
}

need_box() { # a folder for what does not fit a variable
    [[ -d $BOX && -O $BOX ]] || mkdir -p "$BOX"
}

keep_errors() { # what is complained of from now on is told with the answer
    need_box && exec 2>>"$BOX/errors"
}

fact() { # key value
    FACTS+="k $1 $2"$'\n'
}

say_errors() { # a verb that complained says so, instead of hiding it
    [[ -s $BOX/errors ]] || return 0
    fact stderr "$(tail -c 600 "$BOX/errors" | base64 -w 0)"
}

whole() { # file most; sets TEXT to all of it, without a process; false if it is longer, or no text
    local fd at
    TEXT=
    { exec {fd}<"$1"; } 2>/dev/null || return
    # Up to the first NUL, for which a variable has no room: a log may be gigabytes of them.
    IFS= read -r -d '' -n "$2" TEXT <&"$fd"
    read -r _ at </proc/self/fdinfo/"$fd"
    exec {fd}<&-
    ((at == ${#TEXT} && at < $2))
}

take() { # file offset count; that part on stdout
    tail -c "+$(($2 + 1))" "$1" | head -c "$3"
}

size_of() { # file; sets SIZE, 0 where there is none; false where it cannot be told
    SIZE=0
    [[ -e $1 ]] || return 0
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
    BODY+="h $1 ${HOLE[*]}"$'\n'
    if ((AT >= HOLE[0])); then
        LEFT=$((AT + LEFT > HOLE[1] ? AT + LEFT - HOLE[1] : 0)) AT=${HOLE[1]}
    elif ((AT + LEFT > HOLE[0])); then
        LEFT=$((HOLE[0] - AT)) MORE=1
    fi
}

add_job() { # text; what is to be said of the job that is open, as a record
    FACTS+="j $JOB ${#1}"$'\n'$1
}

add_part() { # file offset count; that part of it to the body, which lies in a file from then on
    need_box
    printf %s "$BODY" >>"$BOX/parts"
    BODY='' IN_FILE=1
    take "$1" "$2" "$3" >>"$BOX/parts"
}

add_log() { # name offset most; a record; lowers ROOM
    local name=$1 AT=$2 most=$3 LEFT HOLE before='' text=
    ledger_file "$name"
    if whole "$FILE" "$MOST_LOG"; then
        text=$TEXT SIZE=${#TEXT}
    else
        # What is not answered is asked for again.
        size_of "$FILE" || return 0
    fi
    # A negative offset counts from the end.
    ((AT < 0)) && AT=$((SIZE + AT < 0 ? 0 : SIZE + AT))
    ((AT > SIZE)) && BODY+="t $name $AT $SIZE"$'\n' && AT=0
    LEFT=$((SIZE - AT))
    ((most > 0 && LEFT > most)) && LEFT=$most
    skip_hole "$name"
    ((LEFT > ROOM)) && LEFT=$ROOM && MORE=1
    ROOM=$((ROOM - LEFT))
    BODY+="l $name $AT $LEFT $SIZE"$'\n'
    ((LEFT > 0)) || return 0
    before=${HOLE[1]}
    if [[ -n $text ]]; then
        BODY+=${text:AT:LEFT}
    else
        add_part "$FILE" "$AT" "$LEFT"
    fi
    # It grows while the log is read: then zeros may have been taken for the log.
    hole_in "$name"
    ((HOLE[1] == before)) || HOLE_MOVED=1
}

add_events() { # count; those that follow EVENTS_AT
    BODY+="e $EVENTS_AT $1"$'\n'
    ((${1} > 0)) || return 0
    if [[ -n $EVENTS_TEXT ]]; then
        BODY+=${EVENTS_TEXT:EVENTS_AT:$1}
    else
        add_part "$JOB_DIR/events" "$EVENTS_AT" "$1"
    fi
}

make_body() { # room for events and logs, in bytes; sets BODY, and USED to what they took
    local ROOM=$1 count spec name at most
    BODY=$FACTS IN_FILE='' USED=0
    [[ ! -e $BOX/parts ]] || : >"$BOX/parts"
    [[ -n ${JOB_DIR-} && -d $JOB_DIR ]] || return 0
    if [[ -n ${EVENTS_AT-} && -n ${EVENTS_SIZE-} ]]; then
        count=$((EVENTS_SIZE > EVENTS_AT ? EVENTS_SIZE - EVENTS_AT : 0))
        ((count > ROOM)) && count=$ROOM && MORE=1
        ROOM=$((ROOM - count))
        if [[ -n ${CONDENSED-} ]]; then
            condense "$count"
            BODY+="c $EVENTS_AT $((EVENTS_AT + READ)) ${#ENDS}$ENDS_SUM"$'\n'$ENDS
            last_lines
        else
            add_events "$count"
        fi
    fi
    for spec in ${WANTED//,/ }; do
        IFS=: read -r name at most <<<"$spec"
        add_log "$name" "$at" "${most:-0}"
    done
    USED=$(($1 - ROOM))
}

body() { # room; the whole body on stdout
    make_body "$1"
    [[ -z $IN_FILE ]] || cat "$BOX/parts"
    printf %s "$BODY"
}

is_plain() { # true when the body fits a small answer as it is
    [[ -z $IN_FILE ]] && ((${#BODY} + 40 <= SMALL)) && [[ $BODY != *[!' '-~$'\n']* ]]
}

pack_body() { # sets text to the body, compressed
    if [[ -n $IN_FILE ]]; then
        printf %s "$BODY" >>"$BOX/parts"
        text=$(gzip -c <"$BOX/parts" | base64 -w 0)
    else
        text=$(printf %s "$BODY" | gzip -c | base64 -w 0)
    fi
    length=${#text}
}

answer() { # budget in characters of the envelope; as much as fits, and says when there is more
    local budget=$1 room length text sum with_lines=
    room=$((budget * 14))
    say_errors
    while :; do
        MORE=${MORE_FACTS:-0} HOLE_MOVED=
        make_body "$room"
        [[ -z $HOLE_MOVED ]] || continue
        if is_plain; then
            checksum "$BODY"
            printf 'PMRT %s %s %s %s\n' "$MORE" "${#BODY}" "$SUM" "${BODY//$'\n'/$'\t'}" >&"$ANSWER_FD"
            return
        fi
        pack_body
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
    fi
    read -r sum _ < <(printf %s "$text" | sha256sum)
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
