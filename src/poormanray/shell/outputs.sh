# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# What tasks wrote into PMR_OUTPUT_DIR, as one compressed pack. In it, for each file:
#
#   f <task.attempt> <mode> <count of the name> <count of the content>
#
# and then that many bytes, and a line: `.`, or `!` where what came of the file is not all of it, as
# something else came to its place meanwhile, or it shrank. It is made by the tasks' user, who may write anything into it, and
# reads nothing that this user could not read: whoever takes it checks it.

plain_path() { # path; true when no folder on it is a link: the pattern may lead through one
    local part=$1
    while [[ $part == */* ]]; do
        part=${part%/*}
        [[ ! -L $part ]] || return
    done
}

pack_files() { # folder glob most; task.attempt lines on stdin; first how many files and bytes there are, then the pack
    local IFS='' key file line size mode bytes=0 lost=0 names=() files=() out at copied
    shopt -s globstar nullglob
    while read -r key; do
        cd "$1/$key.out" || { lost=$((lost + 1)) && continue; }
        # Without an IFS it stays one pattern, and nothing but a pattern.
        # shellcheck disable=SC2086
        for file in $2; do
            [[ -f $file && ! -L $file ]] && plain_path "$file" && names+=("$key.out/$file")
        done
    done
    cd "$1" || return
    for ((at = 0; at < ${#names[@]}; at += 200)); do
        while read -r -d '' line; do
            # Still a regular file.
            [[ $line == 8* ]] || { lost=$((lost + 1)) && continue; }
            line=${line#* }
            files+=("$line")
            bytes=$((bytes + ${line%% *}))
        done < <(stat --printf '%f %s %a %n\0' -- "${names[@]:at:200}")
    done
    # What cannot be read counts too: whoever reads the pack finds that it is missing.
    printf '%s %s\n' "$((${#files[@]} + lost))" "$bytes"
    ((bytes <= $3 && ${#files[@]} <= 20000)) || return 0
    exec {out}>&1
    for line in ${files[@]+"${files[@]}"}; do
        size=${line%% *} line=${line#* } mode=${line%% *} file=${line#* } key=${line#* }
        [[ -r $file ]] || continue
        line=$file key=${key%%.out/*} file=${file#*/}
        printf 'f %s %s %s %s\n%s' "$key" "$mode" "${#file}" "$size" "$file"
        copied=0
        # Neither a FIFO nor a link that has come to its place holds anything up, or leads elsewhere.
        ((size == 0)) || copied=$(LC_ALL=C dd "if=$line" bs=64k "count=$size" \
            iflag=nonblock,nofollow,count_bytes,fullblock 2>&1 >&"$out")
        copied=${copied##*$'\n'} copied=${copied%% *}
        [[ -n $copied && $copied != *[!0-9]* ]] || copied=0
        # What was announced is what comes.
        ((copied == size)) && printf '.\n' && continue
        head -c $((size - copied)) /dev/zero
        printf '!\n'
    done
}

as_owner() { # folder, words; in a process of its own, runs a function of ours as the folder's owner
    local owner switch=() code
    owner=$(stat -c %u:%g "$1") || return
    # Not one right more than the task had: the files are its user's to choose.
    ((UID == 0)) && switch=(setpriv --reuid "${owner%:*}" --regid "${owner#*:}" --clear-groups --)
    code=$(declare -f plain_path "$2")
    shift
    # It gets nothing of ours to write to: not the answer, nor a lock to hold.
    exec 2>/dev/null {ANSWER_FD}>&- {PMR_NEVER}>&- {PACK_LOCK}>&-
    env -i "PATH=$PATH" LC_ALL=C ${switch[@]+"${switch[@]}"} bash -c "$code"' && "$@"' - "$@"
}

newest_attempts() { # task.attempt of the last attempt of every task that was here, each on a line
    local folder key
    local -A newest=()
    for folder in "$PMR_ROOT/work/$JOB"/*.out; do
        [[ -d $folder ]] || continue
        key=${folder##*/} key=${key%.out}
        ((${key#*.} > ${newest[${key%.*}]-0})) && newest[${key%.*}]=${key#*.}
    done
    for key in ${newest[@]+"${!newest[@]}"}; do
        printf '%s.%s\n' "$key" "${newest[$key]}"
    done
}

write_pack() { # glob most; the pack is whole in the ledger, or not there
    local work=$PMR_ROOT/work/$JOB folder found
    read -r folder <"$BOX/keys" || return
    # However much comes of it, a file that grows without end too, the disk does not get it all.
    as_owner "$work/$folder.out" pack_files "$work" "$1" "$2" <"$BOX/keys" |
        { IFS= read -r -n 40 found && printf '%s\n' "$found" >"$BOX/found" &&
            head -c "$(($2 + $2 / 4 + 8388608))" | gzip -nc; } >"$JOB_DIR/pack.new" &&
        mv -f "$JOB_DIR/pack.new" "$JOB_DIR/pack"
}

pack_outputs() { # glob most
    local found='0 0'
    newest_attempts | sort -n >"$BOX/keys"
    rm -f "$JOB_DIR"/pack{,.new}
    if [[ -s $BOX/keys ]]; then
        write_pack "$1" "$2" || { rm -f "$JOB_DIR/pack.new"; fact refused pack; return 1; }
        IFS= read -r found <"$BOX/found"
    fi
    fact found "$found"
    [[ -e $JOB_DIR/pack ]] || return
    size_of "$JOB_DIR/pack"
    fact size "$SIZE"
    fact digest "$(sha256sum <"$JOB_DIR/pack")"
}

give_pack() { # URL; puts the pack there, for one who can read the bucket
    if ! command -v curl >/dev/null; then
        fact refused no-curl
    elif curl -sSf --retry 3 --connect-timeout 10 --max-time 800 -T "$JOB_DIR/pack" -K - <<<"url = \"$1\""; then
        fact given 1
    else
        fact refused give
    fi
    rm -f "$JOB_DIR/pack"
}

verb_outputs() { # job glob most; the row, if there is one, is the URL to put the pack at
    local PACK_LOCK
    never
    WANTED='' EVENTS_AT=''
    if ! open_job "$1"; then
        refuse_job
    else
        my_row
        exec {PACK_LOCK}>"$JOB_DIR/pack.lock"
        flock "$PACK_LOCK"
        pack_outputs "$2" "$3" && [[ -n $ROW ]] && give_pack "$ROW"
        exec {PACK_LOCK}>&-
    fi
    answer "$SMALL"
}
