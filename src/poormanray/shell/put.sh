# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153,SC2154 # a send is made of several files; it is checked whole too
# One part of a bundle that one send cannot carry. There may be hundreds of these, so that what
# they carry beside the part is as little as can be.

verb_put() { # job, part, and the first digits of the whole: two may be sent under one id
    local folder=$PMR_ROOT/stage/$1/$3 sum
    WANTED=
    if [[ -d $folder ]] || mkdir -p "$folder"; then
        tail -c "+$((BUNDLE_AT + 1))" "$SEND" >"$folder/.$2"
        read -r sum _ < <(sha256sum "$folder/.$2")
        if [[ $sum == "$DIGEST" ]] && mv -f "$folder/.$2" "$folder/$2"; then
            fact stored "$2"
        else
            fact refused digest
        fi
    fi
    answer "$SMALL"
}
