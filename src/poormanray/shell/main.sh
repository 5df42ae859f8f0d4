# shellcheck shell=bash
# The end of the library: its copy in a ledger starts here as the runner of that job.

case ${1-} in
    runner)
        runner "$2"
        exit 0
        ;;
    imds)
        ask_imds
        exit
        ;;
esac
