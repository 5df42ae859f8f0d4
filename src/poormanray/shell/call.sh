# shellcheck shell=bash
# The end of a send: its words (VERB, ARGS, TABLE and the rest) were set just before.

SEND=$0
BOX=${0%/*}
begin_answer
case $VERB in
    start | put | observe | cancel | jobs | probe) "verb_$VERB" ${ARGS[@]+"${ARGS[@]}"} ;;
esac
exit 0
