# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# The end of a send: its words (VERB, ARGS, TABLE and the rest) were set just before.

SEND=$0
BOX=${0%/*}
begin_answer
# Whoever only looks has nothing to complain of, and no need of a folder.
[[ $VERB == @(observe|ends|which|probe|summary|jobs) ]] || keep_errors
expired && exit 0
case $VERB in
    start | put | observe | ends | queue | cancel | jobs | which | probe | summary | prune | outputs) "verb_$VERB" ${ARGS[@]+"${ARGS[@]}"} ;;
esac
exit 0
