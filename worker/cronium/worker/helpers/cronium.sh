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
            _cronium_member "$CRONIUM_DIR/variables.json" "$1"
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
        _cronium_number "${1-}" || _cronium_usage "cronium_progress PERCENT [MESSAGE]"
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

# Everything below runs in a subshell and splits words on one character at a time (IFS), in linear time: to take prefixes off a long
# text costs a shell its square.
_cronium_nl='
'
_cronium_tab=$(printf '\t')
_cronium_cr=$(printf '\r')
_cronium_blanks=" $_cronium_tab$_cronium_nl$_cronium_cr"
# All control characters but tab, line feed and NUL (which no shell variable holds).
_cronium_controls=$(printf '\001\002\003\004\005\006\007\010\013\014\015\016\017\020\021\022\023\024\025\026\027\030\031\032\033\034\035\036\037')

# TEXT: as a JSON string in $_cronium_json, escaped as JSON.stringify does it.
_cronium_quote() {
    _cronium_json=$1
    case $1 in
        *[\"\\"$_cronium_tab$_cronium_nl$_cronium_controls"]*)
            # shellcheck disable=SC1003 # two backslashes it is
            _cronium_swap \\ '\\'
            _cronium_swap \" '\"'
            _cronium_swap "$_cronium_nl" '\n'
            _cronium_swap "$_cronium_tab" '\t'
            _cronium_swap "$_cronium_cr" '\r'
            ;;
    esac
    case $_cronium_json in
        *["$_cronium_controls"]*)
            for _cronium_code in 1 2 3 4 5 6 7 8 11 12 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31; do
                _cronium_one=$(printf '%b' "\\00$((_cronium_code >> 3))$((_cronium_code & 7))")
                case $_cronium_code in
                    8) _cronium_swap "$_cronium_one" '\b' ;;
                    12) _cronium_swap "$_cronium_one" '\f' ;;
                    *) _cronium_swap "$_cronium_one" "$(printf '\\u%04x' "$_cronium_code")" ;;
                esac
            done
            ;;
    esac
    _cronium_json="\"$_cronium_json\""
}

# CHARACTER REPLACEMENT: throughout $_cronium_json.
_cronium_swap() {
    case $_cronium_json in *"$1"*) ;; *) return ;; esac
    _cronium_rest=$_cronium_json. _cronium_json=''
    case $1 in
        \\ | \")
            IFS=$1
            for _cronium_run in $_cronium_rest; do _cronium_json=$_cronium_json$_cronium_run$2; done
            IFS=''
            _cronium_json=${_cronium_json%"$2"}
            ;;
        *) # may count as white space (which characters do differs), of which several in a row split words but once
            while :; do
                case $_cronium_rest in *"$1"*) ;; *) break ;; esac
                _cronium_run=${_cronium_rest%%"$1"*}
                _cronium_json=$_cronium_json$_cronium_run$2
                _cronium_rest=${_cronium_rest#"$_cronium_run$1"}
            done
            _cronium_json=$_cronium_json$_cronium_rest
            ;;
    esac
    _cronium_json=${_cronium_json%.}
}

# TEXT: as a JSON value in $_cronium_json: itself, on one line, when it is one; a string otherwise.
_cronium_value() {
    _cronium_parse "$1" || _cronium_quote "$1"
}

# TEXT [KEY]: is it one JSON value? Then it is in $_cronium_json, without blanks between its parts; with KEY, that member of it is in
# $_cronium_found. Split at its quotes, a text is in turn outside and inside of a string; an escaped quote goes on inside.
_cronium_parse() {
    set -f -- "$1 " "${2-}"
    LC_ALL=C _cronium_json='' _cronium_open='' _cronium_want=value _cronium_inside='' _cronium_found='' _cronium_text=''
    IFS=\"
    for _cronium_part in $1; do
        IFS=''
        if [ "$_cronium_inside" ]; then
            _cronium_text=$_cronium_text$_cronium_part
            _cronium_run=${_cronium_part##*[!\\]} # its backslashes at the end: an odd number escapes the quote
            while :; do
                case $_cronium_run in \\\\*) _cronium_run=${_cronium_run#??} ;; *) break ;; esac
            done
            case $_cronium_run in
                \\) _cronium_text="$_cronium_text\"" ;;
                *)
                    _cronium_inside=''
                    _cronium_string "$2" || return 1
                    ;;
            esac
        else
            _cronium_rest=$_cronium_part
            _cronium_outside "$2" || return 1
            _cronium_inside=1 _cronium_text=''
        fi
    done
    IFS=''
    # The blank at the end makes the last part one of the outside, unless a string is still open.
    [ "$_cronium_inside" ] && [ -z "$_cronium_text" ] && [ "$_cronium_want" = next ] && [ -z "$_cronium_open" ]
}
# KEY: a whole string, in $_cronium_text.
_cronium_string() {
    case $_cronium_text in *["$_cronium_tab$_cronium_nl$_cronium_controls"]*) return 1 ;; esac
    case $_cronium_text in
        *\\*)
            _cronium_escaped=''
            # shellcheck disable=SC2141 # a backslash it is
            IFS=\\
            for _cronium_run in $_cronium_text.; do
                IFS=''
                case $_cronium_escaped:$_cronium_run in
                    # The first, and what follows an escaped backslash, which is an empty part itself.
                    :*) _cronium_escaped=1 ;;
                    1:) _cronium_escaped='' ;;
                    1:[\"/bfnrt]* | 1:u[0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F]*) ;;
                    *) return 1 ;;
                esac
            done
            ;;
    esac
    case $_cronium_want in
        key | first_key)
            _cronium_want=after_key
            [ "$_cronium_open" != '{' ] || _cronium_name=$_cronium_text
            _cronium_json="$_cronium_json\"$_cronium_text\""
            ;;
        value | first_item)
            _cronium_json="$_cronium_json\"$_cronium_text\""
            _cronium_next "$1"
            ;;
        *) return 1 ;;
    esac
}
# KEY: brackets, commas, colons, numbers and words between strings. The stack of open brackets is $_cronium_open.
_cronium_outside() {
    while :; do
        _cronium_rest=${_cronium_rest#"${_cronium_rest%%[!"$_cronium_blanks"]*}"}
        [ "$_cronium_rest" ] || return 0
        case $_cronium_want:$_cronium_rest in
            value:\{* | first_item:\{*) _cronium_take '{' && _cronium_open="{$_cronium_open" _cronium_want=first_key ;;
            value:\[* | first_item:\[*) _cronium_take '[' && _cronium_open="[$_cronium_open" _cronium_want=first_item ;;
            after_key::*)
                _cronium_take : && _cronium_want=value
                [ "$_cronium_open" != '{' ] || [ -z "$1" ] || _cronium_json='' # of the outermost only one member is wanted
                ;;
            next:,*)
                case $_cronium_open in \{*) _cronium_want=key ;; \[*) _cronium_want=value ;; *) return 1 ;; esac
                _cronium_take ,
                ;;
            first_key:\}* | next:\}*)
                case $_cronium_open in \{*) ;; *) return 1 ;; esac
                _cronium_take '}' && _cronium_open=${_cronium_open#?} && _cronium_next "$1"
                ;;
            first_item:\]* | next:\]*)
                case $_cronium_open in \[*) ;; *) return 1 ;; esac
                _cronium_take ']' && _cronium_open=${_cronium_open#?} && _cronium_next "$1"
                ;;
            value:* | first_item:*)
                _cronium_run=${_cronium_rest%%[!-+.0-9A-Za-z]*}
                case $_cronium_run in true | false | null) ;; *) _cronium_number "$_cronium_run" || return 1 ;; esac
                _cronium_json=$_cronium_json$_cronium_run _cronium_rest=${_cronium_rest#"$_cronium_run"}
                _cronium_next "$1"
                ;;
            *) return 1 ;;
        esac
    done
}
_cronium_take() {
    _cronium_json=$_cronium_json$1 _cronium_rest=${_cronium_rest#?}
}
# KEY: a value is complete.
_cronium_next() {
    _cronium_want=next
    if [ "$1" ] && [ "$_cronium_open" = '{' ]; then
        case $_cronium_name in *\\*) _cronium_name=$(_cronium_plain "\"$_cronium_name\"") ;; esac
        [ "$_cronium_name" != "$1" ] || _cronium_found=$_cronium_json
    fi
}
_cronium_number() {
    case $1 in
        *[eE]*)
            _cronium_run=${1#*[eE]}
            _cronium_digits "${_cronium_run#[-+]}" || return 1
            ;;
    esac
    set -- "${1%%[eE]*}" "$1"
    case $1 in *.*) _cronium_digits "${1#*.}" || return 1 ;; esac
    set -- "${1%%.*}" "$2"
    _cronium_run=$2
    case ${1#-} in 0?*) return 1 ;; esac
    _cronium_digits "${1#-}"
}
_cronium_digits() {
    case $1 in '' | *[!0-9]*) return 1 ;; esac
}

# COMMAND FILE [KEY]
_cronium_show() {
    case $# in
        2) cat "${CRONIUM_DIR:?is set inside a Cronium job only}/$2" && echo ;;
        3) _cronium_member "${CRONIUM_DIR:?is set inside a Cronium job only}/$2" "$3" ;;
        *) _cronium_usage "$1 [KEY]" ;;
    esac
}
# FILE KEY: prints that member of the object; false where there is none.
_cronium_member() {
    _cronium_parse "$(cat "$1")" "$2" && [ "$_cronium_found" ] && _cronium_plain "$_cronium_found"
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
                for _cronium_one in b f n r t / \" \\; do
                    case $_cronium_rest in \\"$_cronium_one"*) break ;; esac
                done
                case $_cronium_one in [bfnrt]) printf '%b' "\\$_cronium_one" ;; *) printf '%s' "$_cronium_one" ;; esac
                _cronium_rest=${_cronium_rest#??}
                ;;
        esac
    done
    printf '\n'
}
# Prints the character whose four digits (and low half, if it is a high surrogate) $_cronium_rest starts with.
_cronium_hex() {
    _cronium_digits4
    _cronium_code=$_cronium_four
    if [ $((_cronium_code >> 10)) -eq 54 ]; then
        case $_cronium_rest in
            \\u[dD][c-fC-F]*)
                _cronium_rest=${_cronium_rest#??}
                _cronium_digits4
                _cronium_code=$((65536 + ((_cronium_code & 1023) << 10) + (_cronium_four & 1023)))
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

_cronium_digits4() {
    _cronium_four=0
    for _cronium_one in 1 2 3 4; do
        for _cronium_run in 0 1 2 3 4 5 6 7 8 9 a b c d e f A B C D E F; do
            case $_cronium_rest in "$_cronium_run"*) break ;; esac
        done
        _cronium_rest=${_cronium_rest#?} _cronium_four=$((_cronium_four * 16 + 0x$_cronium_run))
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
