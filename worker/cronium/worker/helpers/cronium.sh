# shellcheck shell=sh
#
# What a job's shell script may say to Cronium: the commands cronium_input, cronium_output, cronium_get_variable,
# cronium_set_variable, cronium_set_condition, cronium_event and cronium_progress. They are on PATH, for any shell; a script that
# wants them without a process each says `. cronium.sh` and has them as functions of the same names.
#
# Plain sh (dash, bash, busybox), no jq, no network. Data comes from $CRONIUM_DIR; what is said goes as one JSON line, by one write,
# to $CRONIUM_EVENTS, which can be written but not read. Variables that the job has set are kept in $CRONIUM_DIR/variables.set
# (the same lines), so that all helpers of the job see them. Each command's work is done in a subshell: it leaves no variable.

# cronium_input [KEY]: the job's input data as JSON, or one of its keys: a string as plain text, anything else as JSON.
cronium_input() { (_cronium_show cronium_input input.json "$@"); }

# cronium_event [KEY]: what this run is (job id, event id, name, attempt), in the same way.
cronium_event() { (_cronium_show cronium_event event.json "$@"); }

# cronium_output [DATA]: makes DATA (or standard input) the job's output; the last one counts. JSON is taken as it is, text as text.
cronium_output() {
    (
        if [ $# -gt 0 ]; then _cronium_value "$*"; else _cronium_value "$(cat)"; fi
        _cronium_say cronium_output "{\"type\":\"output\",\"data\":$_cronium_json}"
    )
}

# cronium_get_variable KEY: its value, as this job has set it or as it was at the start. Exit code 1 where there is none.
cronium_get_variable() {
    (
        [ $# -eq 1 ] || _cronium_usage "cronium_get_variable KEY"
        _cronium_quote "$1"
        start="{\"type\":\"variable\",\"key\":$_cronium_json,\"value\":" found=''
        if [ -e "${CRONIUM_DIR:?is set inside a Cronium job only}/variables.set" ]; then
            while IFS= read -r line; do
                case $line in "$start"*) found=${line#"$start"} ;; esac
            done <"$CRONIUM_DIR/variables.set"
        fi
        if [ "$found" ]; then
            _cronium_plain "${found%?}"
        else
            _cronium_load "$CRONIUM_DIR/variables.json" && _cronium_member "$1"
        fi
    )
}

# cronium_set_variable KEY VALUE: sets it, for this job and for those after it. JSON is taken as it is, text as text.
cronium_set_variable() {
    (
        [ $# -eq 2 ] || _cronium_usage "cronium_set_variable KEY VALUE"
        _cronium_quote "$1"
        key=$_cronium_json
        _cronium_value "$2"
        line="{\"type\":\"variable\",\"key\":$key,\"value\":$_cronium_json}"
        _cronium_say cronium_set_variable "$line" && _cronium_append "$CRONIUM_DIR/variables.set" "$line"
    )
}

# cronium_set_condition true|false: sets the job's condition, which decides what runs after it.
cronium_set_condition() {
    (
        case ${1-} in
            true | yes | 1) value=true ;;
            false | no | 0) value=false ;;
            *) _cronium_usage "cronium_set_condition true|false" ;;
        esac
        _cronium_say cronium_set_condition "{\"type\":\"condition\",\"value\":$value}"
    )
}

# cronium_progress PERCENT [MESSAGE]: how far the job is, 0 to 100, and a word to it if you like.
cronium_progress() {
    (
        _cronium_json=''
        _cronium_rest=${1-}
        if ! _cronium_number || [ "$_cronium_rest" ]; then _cronium_usage "cronium_progress PERCENT [MESSAGE]"; fi
        percentage=$1
        case ${percentage%%[.eE]*} in
            -*) percentage=0 ;;
            ??? | ????*) percentage=100 ;;
        esac
        said="{\"type\":\"progress\",\"percentage\":$percentage"
        shift
        if [ $# -gt 0 ]; then
            _cronium_quote "$*"
            said="$said,\"message\":$_cronium_json"
        fi
        _cronium_say cronium_progress "$said}"
    )
}

_cronium_usage() {
    printf 'usage: %s\n' "$1" >&2
    exit 2
}

# Line feed, carriage return and tab; all control characters but the line feed, by their number (no shell variable holds a NUL).
_cronium_nl='
'
_cronium_cr=$(printf '\r')
_cronium_tab=$(printf '\t')
_cronium_blanks=" $_cronium_tab$_cronium_nl$_cronium_cr"
_cronium_controls=$(printf '\001\002\003\004\005\006\007\010\011\013\014\015\016\017\020\021\022\023\024\025\026\027\030\031\032\033\034\035\036\037')

# TEXT: as a JSON string in $_cronium_json. Goes from one character that needs it to the next.
_cronium_quote() {
    _cronium_json='"' _cronium_rest=$1
    while :; do
        _cronium_run=${_cronium_rest%%["\"\\$_cronium_nl$_cronium_controls"]*}
        _cronium_json=$_cronium_json$_cronium_run
        _cronium_rest=${_cronium_rest#"$_cronium_run"}
        [ "$_cronium_rest" ] || break
        _cronium_one=${_cronium_rest%"${_cronium_rest#?}"}
        _cronium_rest=${_cronium_rest#?}
        case $_cronium_one in
            '"' | \\) _cronium_json="$_cronium_json\\$_cronium_one" ;;
            "$_cronium_nl") _cronium_json="$_cronium_json\\n" ;;
            "$_cronium_cr") _cronium_json="$_cronium_json\\r" ;;
            "$_cronium_tab") _cronium_json="$_cronium_json\\t" ;;
            *)
                _cronium_run=${_cronium_controls%%"$_cronium_one"*}
                _cronium_code=$((${#_cronium_run} + 1))
                [ "$_cronium_code" -lt 10 ] || _cronium_code=$((_cronium_code + 1)) # the line feed is not among them
                case $_cronium_code in
                    8) _cronium_json="$_cronium_json\\b" ;;
                    12) _cronium_json="$_cronium_json\\f" ;;
                    *) _cronium_json="$_cronium_json$(printf '\\u%04x' "$_cronium_code")" ;;
                esac
                ;;
        esac
    done
    _cronium_json=$_cronium_json\"
}

# TEXT: as a JSON value in $_cronium_json: itself, on one line, when it is one; a string otherwise.
_cronium_value() {
    _cronium_rest=$1 _cronium_json=''
    if _cronium_parse && _cronium_skip && [ -z "$_cronium_rest" ]; then return 0; fi
    _cronium_quote "$1"
}

# The parser: takes one value from the start of $_cronium_rest, and appends it without blanks to $_cronium_json; false when there is none.
# No recursion, as plain sh has no local variables: $_cronium_open is the stack of brackets that are open.
_cronium_parse() {
    _cronium_open='' _cronium_want=value
    while :; do
        _cronium_skip
        case $_cronium_want:$_cronium_rest in
            value:\{*) _cronium_take && _cronium_open="{$_cronium_open" _cronium_want=first_key ;;
            value:\[* | first_item:\[*) _cronium_take && _cronium_open="[$_cronium_open" _cronium_want=first_item ;;
            first_item:\{*) _cronium_take && _cronium_open="{$_cronium_open" _cronium_want=first_key ;;
            first_key:\}* | first_item:\]*) _cronium_close ;;
            first_key:\"* | key:\"*) _cronium_string && _cronium_want=after_key ;;
            value:\"* | first_item:\"*) _cronium_string && _cronium_want=next ;;
            after_key::*) _cronium_take && _cronium_want=value ;;
            next:,*)
                case $_cronium_open in
                    \{*) _cronium_want=key ;;
                    \[*) _cronium_want=value ;;
                esac
                _cronium_take
                ;;
            next:\}*) case $_cronium_open in \{*) _cronium_close ;; *) return 1 ;; esac ;;
            next:\]*) case $_cronium_open in \[*) _cronium_close ;; *) return 1 ;; esac ;;
            value:* | first_item:*) { _cronium_word || _cronium_number; } && _cronium_want=next ;;
            *) return 1 ;;
        esac || return 1
        [ "$_cronium_want" != next ] || [ "$_cronium_open" ] || return 0
    done
}
_cronium_skip() {
    _cronium_rest=${_cronium_rest#"${_cronium_rest%%[!"$_cronium_blanks"]*}"}
}
_cronium_take() {
    _cronium_json=$_cronium_json${_cronium_rest%"${_cronium_rest#?}"}
    _cronium_rest=${_cronium_rest#?}
}
_cronium_close() {
    _cronium_open=${_cronium_open#?} _cronium_want=next
    _cronium_take
}
_cronium_word() {
    for _cronium_run in true false null; do
        case $_cronium_rest in
            "$_cronium_run"*)
                _cronium_json=$_cronium_json$_cronium_run _cronium_rest=${_cronium_rest#"$_cronium_run"}
                return 0
                ;;
        esac
    done
    return 1
}
_cronium_number() {
    _cronium_run=${_cronium_rest%%[!-+.0-9eE]*}
    _cronium_rest=${_cronium_rest#"$_cronium_run"}
    _cronium_json=$_cronium_json$_cronium_run
    case $_cronium_run in
        *[eE]*)
            _cronium_part=${_cronium_run#*[eE]}
            _cronium_digits "${_cronium_part#[-+]}" || return 1
            ;;
    esac
    _cronium_run=${_cronium_run%%[eE]*}
    case $_cronium_run in *.*) _cronium_digits "${_cronium_run#*.}" || return 1 ;; esac
    _cronium_run=${_cronium_run%%.*}
    _cronium_run=${_cronium_run#-}
    case $_cronium_run in 0?*) return 1 ;; esac
    _cronium_digits "$_cronium_run"
}
_cronium_digits() {
    case $1 in '' | *[!0-9]*) return 1 ;; esac
}
_cronium_string() {
    _cronium_take
    while :; do
        _cronium_run=${_cronium_rest%%["\"\\$_cronium_nl$_cronium_controls"]*}
        _cronium_json=$_cronium_json$_cronium_run
        _cronium_rest=${_cronium_rest#"$_cronium_run"}
        case $_cronium_rest in
            \"*)
                _cronium_take
                return 0
                ;;
            \\u[0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F]*) _cronium_take && _cronium_take ;;
            \\[\"\\/bfnrt]*) _cronium_take && _cronium_take ;;
            *) return 1 ;;
        esac
    done
}

# COMMAND FILE [KEY]
_cronium_show() {
    [ $# -le 3 ] || _cronium_usage "$1 [KEY]"
    _cronium_load "${CRONIUM_DIR:?is set inside a Cronium job only}/$2" || return 1
    if [ $# -eq 3 ]; then _cronium_member "$3"; else printf '%s\n' "$_cronium_text"; fi
}
_cronium_load() {
    _cronium_text=$(cat "$1")
}
# KEY: prints that member of the object in $_cronium_text; false where there is none.
_cronium_member() {
    _cronium_rest=$_cronium_text
    _cronium_skip
    case $_cronium_rest in \{*) ;; *) return 1 ;; esac
    while :; do
        _cronium_rest=${_cronium_rest#?} # the bracket or comma
        _cronium_skip
        case $_cronium_rest in \"*) ;; *) return 1 ;; esac
        _cronium_json=''
        _cronium_string || return 1
        _cronium_name=$(_cronium_plain "$_cronium_json" && printf .)
        _cronium_skip
        _cronium_rest=${_cronium_rest#:} _cronium_json=''
        _cronium_parse || return 1
        if [ "$_cronium_name" = "$1$_cronium_nl." ]; then
            _cronium_plain "$_cronium_json"
            return 0
        fi
        _cronium_skip
        case $_cronium_rest in ,*) ;; *) return 1 ;; esac
    done
}

# JSON: printed; a string without its quotes and escapes. A character beyond ASCII that is written as \uXXXX becomes UTF-8.
_cronium_plain() {
    case $1 in
        \"*) ;;
        *)
            printf '%s\n' "$1"
            return
            ;;
    esac
    _cronium_rest=${1#?}
    _cronium_rest=${_cronium_rest%?}
    while :; do
        _cronium_run=${_cronium_rest%%\\*}
        printf '%s' "$_cronium_run"
        _cronium_rest=${_cronium_rest#"$_cronium_run"}
        case $_cronium_rest in
            '') break ;;
            \\u*)
                _cronium_rest=${_cronium_rest#??}
                _cronium_hex
                ;;
            *)
                _cronium_run=${_cronium_rest#\\}
                _cronium_one=${_cronium_run%"${_cronium_run#?}"}
                _cronium_rest=${_cronium_run#?}
                case $_cronium_one in [bfnrt]) printf '%b' "\\$_cronium_one" ;; *) printf '%s' "$_cronium_one" ;; esac
                ;;
        esac
    done
    printf '\n'
}
# Prints the character whose four digits (and low half, if it is a high surrogate) $_cronium_rest starts with.
_cronium_hex() {
    _cronium_code=$((0x${_cronium_rest%"${_cronium_rest#????}"}))
    _cronium_rest=${_cronium_rest#????}
    if [ $((_cronium_code >> 10)) -eq 54 ]; then
        case $_cronium_rest in
            \\u[dD][c-fC-F]*)
                _cronium_rest=${_cronium_rest#??}
                _cronium_run=$((0x${_cronium_rest%"${_cronium_rest#????}"}))
                _cronium_rest=${_cronium_rest#????}
                _cronium_code=$((65536 + ((_cronium_code & 1023) << 10) + (_cronium_run & 1023)))
                ;;
        esac
    fi
    if [ "$_cronium_code" -lt 128 ]; then
        set -- "$_cronium_code"
    elif [ "$_cronium_code" -lt 2048 ]; then
        set -- $((192 | _cronium_code >> 6)) $((128 | _cronium_code & 63))
    elif [ "$_cronium_code" -lt 65536 ]; then
        set -- $((224 | _cronium_code >> 12)) $((128 | _cronium_code >> 6 & 63)) $((128 | _cronium_code & 63))
    else
        set -- $((240 | _cronium_code >> 18)) $((128 | _cronium_code >> 12 & 63)) \
            $((128 | _cronium_code >> 6 & 63)) $((128 | _cronium_code & 63))
    fi
    for _cronium_one in "$@"; do
        printf '%b' "\\0$((_cronium_one >> 6))$((_cronium_one >> 3 & 7))$((_cronium_one & 7))"
    done
}

# COMMAND LINE: one line to the events.
_cronium_say() {
    if [ -z "${CRONIUM_EVENTS-}" ]; then
        printf '%s: CRONIUM_EVENTS is not set: this works inside a Cronium job only\n' "$1" >&2
        return 1
    fi
    _cronium_append "$CRONIUM_EVENTS" "$2"
}
# FILE LINE: by one write, so that lines of two processes never mix. The shell itself writes in pieces of some KiB; dd does not.
_cronium_append() {
    if [ ${#2} -le 1000 ]; then
        printf '%s\n' "$2" >>"$1"
        return
    fi
    _cronium_piece=$CRONIUM_DIR/said.$(sh -c 'echo $PPID')
    printf '%s\n' "$2" >"$_cronium_piece"
    dd if="$_cronium_piece" bs=$((${#2} * 4 + 1)) count=1 2>/dev/null >>"$1"
    _cronium_run=$?
    rm -f "$_cronium_piece"
    return "$_cronium_run"
}
