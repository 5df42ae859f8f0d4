# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# Which of an instance's jobs somebody means.

find_job() { # last, id:ID or name:NAME (base64); cluster; opens the newest one that it means
    local folder index line cluster name folders=()
    [[ $1 == id:* ]] && { open_job "${1#id:}"; return; }
    for folder in "$PMR_ROOT"/jobs/*/; do
        [[ -d $folder ]] && folders+=("${folder%/}")
    done
    for ((index = ${#folders[@]} - 1; index >= 0; index--)); do
        # A ledger of another format counts too: an older job must not be taken for the newest.
        open_job "${folders[index]##*/}" || [[ -n $FOREIGN ]] || continue
        cluster='' name=''
        # A name ends in "=" as it likes: it is base64.
        while IFS= read -r line; do
            case $line in
                cluster=*) cluster=${line#*=} ;;
                name=*) name=${line#*=} ;;
            esac
        done <"$PMR_ROOT/jobs/$JOB/meta"
        [[ $cluster == "$2" && ($1 == last || $1 == "name:$name") ]] || continue
        [[ -z $FOREIGN ]]
        return
    done
    FOREIGN=
    return 1
}

verb_which() { # which job (see find_job), cluster; the row is as for observe, and nothing is started
    WANTED='' EVENTS_AT='' BUDGET=$SMALL
    if find_job "$1" "$2"; then
        fact job "$JOB"
        tell_identity
        my_row
        read -r _ _ _ BUDGET WANTED <<<"$ROW"
    else
        refuse_job
        JOB_DIR=
    fi
    answer "$BUDGET"
}
