# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# What every job of an instance has come to.

tally() { # sets the counts of the tasks that are here, by what became of their newest attempts
    local kind to task attempt code why key
    local -A newest=() is=()
    while read -r task attempt; do
        newest[$task]=1 is[$task]=queued
    done <"$JOB_DIR/queue"
    while read -r kind _ to attempt code why _; do
        case $kind in
            # What another instance has got is its to tell.
            G) for key in ${attempt//,/ }; do unset "is[${key%.*}]"; done ;;
            A) for key in ${to//,/ }; do newest[${key%.*}]=${key#*.} is[${key%.*}]=queued; done ;;
            S | E)
                ((${attempt:-0} >= ${newest[$to]-1})) || continue
                ((attempt == ${newest[$to]-0})) || is[$to]=queued
                newest[$to]=$attempt
                if [[ $kind == S ]]; then
                    # A cancel's line may come before its task's own.
                    [[ ${is[$to]-} == @(succeeded|failed) ]] || is[$to]=running
                elif [[ $code == 0 && $why == exit ]]; then
                    is[$to]=succeeded
                else
                    is[$to]=failed
                fi
                ;;
        esac
    done <"$JOB_DIR/events"
    QUEUED=${#is[@]} RUNNING=0 SUCCEEDED=0 FAILED=0
    for kind in ${is[@]+"${is[@]}"}; do
        case $kind in
            running) RUNNING=$((RUNNING + 1)) ;;
            succeeded) SUCCEEDED=$((SUCCEEDED + 1)) ;;
            failed) FAILED=$((FAILED + 1)) ;;
        esac
    done
}

verb_jobs() { # most; the newest jobs first
    local folder names=() index count=0 text
    WANTED='' EVENTS_AT=
    for folder in "$PMR_ROOT"/jobs/*/; do
        [[ -d $folder ]] && names+=("${folder%/}")
    done
    for ((index = ${#names[@]} - 1; index >= 0 && count < $1; index--)); do
        open_job "${names[index]##*/}" || {
            [[ -z $FOREIGN ]] || fact "foreign.$JOB" "$FOREIGN"
            continue
        }
        settle
        tally
        whole "$JOB_DIR/meta" "$MOST_LOG" || continue
        printf -v text 'queued=%s\nsucceeded=%s\nfailed=%s\nrunning=%s\nrunner=%s\n' \
            "$QUEUED" "$SUCCEEDED" "$FAILED" "$RUNNING" "$RUNNER"
        add_job "$TEXT$text"
        count=$((count + 1))
    done
    ((${#names[@]} > count)) && MORE_FACTS=1
    JOB_DIR=
    answer "$LARGE"
}
