# shellcheck shell=sh
# shellcheck disable=SC2154 # temp_dir, name, reader and each command's own values are set in front of this text
#
# What we run on a server: each command of commands.py is this text with its values in front and one of run, read_on, keep, fetch,
# clean, discard, list as its last line. Plain POSIX sh with coreutils (or busybox) and Linux's /proc.
#
# A place is the directory `<temp_dir>-<uid>/<name>`; launcher.sh's head comment tells what lies in it. Beside that:
#   contact      rewritten with ever new content by whoever comes back; the launcher's keeper goes by it
#   reader.ID    a pipe on which the reader of the output with that id takes words: `next STREAM OFFSET`, `end`
#
# First line, on stdout and where data follows there on stderr too: `@cronium ready uid=N boot=ID up=SECONDS place=yes|no` or
# `@cronium error CODE DETAIL`. `up` is how long ago the host was booted.
# Descriptors: 3 and 4 our stdout and stderr as they came; 2 goes nowhere, as shells talk there.
# What is ours among the server's processes carries CRONIUM_PLACE=NAME (launcher), CRONIUM_TOKEN=NAME (job), or
# CRONIUM_READER=NAME (our shells, and whoever follows files) in its environment, as an entry of its own.

exec 3>&1 4>&2 2>/dev/null
boot_id=-
newline='
'

# CODE DETAIL
refuse() {
    printf '@cronium error %s\n' "$*" >&3
    exit 1
}

# What mkdir and its like said: its last line, with a code of ours.
refuse_said() {
    set -- "${1##*
}" "$2"
    case $1 in
        *"No space left"* | *"uota exceeded"*) refuse no_space "$2" ;;
        *"Read-only file system"*) refuse read_only "$2" ;;
        *) refuse cannot_make "$2: ${1##*: }" ;;
    esac
}

# Who we are, and where: uid, boot_id, uptime, base, place. No process is started for it.
learn() {
    while read -r key _ uid _; do
        [ "$key" != Uid: ] || break
    done </proc/self/status
    read -r boot_id </proc/sys/kernel/random/boot_id
    uptime=-
    read -r uptime _ </proc/uptime
    base=$temp_dir-$uid
    place=$base/$name
}

# yes|no, and whether data follows on stderr too.
ready() {
    set -- "$1" "$2" "uid=$uid boot=$boot_id up=${uptime%.*}"
    printf '@cronium ready %s place=%s\n' "$3" "$1" >&3
    [ -z "$2" ] || printf '@cronium ready %s place=%s\n' "$3" "$1" >&4
}

# True for one only, of all that ever try. (O_EXCL, without a process of its own; fails too where an earlier version made a directory.)
take_gate() {
    set -C
    printf '' >"$place/gate"
    set -- "$?"
    set +C
    return "$1"
}

is_number() {
    case $1 in '' | *[!0-9]* | 0?* | ???????????????????*) return 1 ;; esac
}

# ---- The base directory ----

make_base() {
    said=$(LC_ALL=C mkdir -m 0700 "$base" 2>&1) && return
    [ ! -d "$base" ] || return 0 # another channel was quicker
    [ -e "${base%/*}/" ] || LC_ALL=C mkdir -p "${base%/*}/"
    said=$(LC_ALL=C mkdir -m 0700 "$base" 2>&1) || [ -d "$base" ] || refuse_said "$said" "$base"
}

# In /tmp others may have made it before us: a link, or a directory that they can write to.
check_base() {
    check_owner
    check_mode "$(stat -c %a "$base")"
}
check_owner() {
    [ ! -L "$base" ] || refuse base_not_ours "$base is a symbolic link"
    [ -d "$base" ] || refuse base_not_ours "$base is no directory"
    [ -O "$base" ] || refuse base_not_ours "$base belongs to another user"
}
# MODE
check_mode() {
    case $1 in 700 | ?700) ;; *) refuse base_not_ours "$base is open to others: its mode must be 0700" ;; esac
}

# ---- Processes ----

# PID: state, session, start_ticks from /proc/PID/stat; false when there is no such process. See the launcher's.
read_stat() {
    stat=''
    while read -r line; do stat="$stat$line "; done <"/proc/$1/stat"
    [ "$stat" ] || return 1
    # shellcheck disable=SC2086 # split on purpose: all numbers but the state
    set -- ${stat##*) }
    state=$1 session=$4 start_ticks=${20}
}

# The launcher's pid in $launcher_pid; false when it is gone.
find_launcher() {
    launcher_pid='' ticks=''
    read -r launcher_pid ticks <"$place/launcher"
    is_number "$launcher_pid" && is_number "$ticks" && read_stat "$launcher_pid" || return 1
    case $state in Z | X) return 1 ;; esac
    [ "$start_ticks" = "$ticks" ]
}

# The environment of each process, with its name in front. Some at a time: all of a large server are too many for one command. (The
# other files are there because of a single one `head` shows no name.)
show_environments() {
    set --
    for entry in "/proc/$$/../"[0-9]*; do
        set -- "$@" "$entry/environ"
        [ $# -lt 500 ] || { head -c 2097152 "$@" /dev/null; set --; }
    done
    head -c 2097152 "$@" /dev/null /dev/null
}

# VARIABLE...: pids that seem to have one of them with the place's name. One look at everything: `head` names each file that it shows,
# by a path with our pid, which no text knows that is older than we are. Still only a hint: anybody may show us such a line.
carriers() {
    for variable; do set -- "$@" -e "/^$variable=$name\$/{x;p;x;}" && shift; done
    show_environments | tr '\000' '\n' |
        LC_ALL=C sed -n -e "\\,^==> /proc/$$/\\.\\./[0-9]*/environ <==\$,{s,.*/\\.\\./\\([0-9]*\\)/.*,\\1,;h;}" "$@" |
        sort -u
}

# PID VARIABLE...: has it one of them itself? A newline within an entry is no end of it. (Others than root can kill their own only; who
# puts this into a process of his own has that killed, and nothing else.)
carries() {
    entries=$newline$(tr '\n\000' '\001\n' <"/proc/$1/environ")$newline
    shift
    for variable; do
        case $entries in *"$newline$variable=$name$newline"*) return ;; esac
    done
    return 1
}

# VARIABLE...: KILL to all who carry it, until there are none. One that went before it was looked at may have left another.
sweep() {
    passes=0 swept=1
    while [ "$swept" ] && [ "$passes" -lt 20 ]; do
        swept=''
        for pid in $(carriers "$@"); do
            if carries "$pid" "$@"; then kill -KILL "$pid"; elif [ -e "/proc/$pid" ]; then continue; fi
            swept=1
        done
        passes=$((passes + 1))
        [ "$passes" -le 3 ] || sleep 0.05
    done
}

# KILL to the script's session, also to what has cleared its environment there. Its number may be somebody else's by now: the line
# `started` says since when it was ours. (Who is its leader too, where the script has removed the directory that says so.)
sweep_session() {
    leader='' since='' boot=''
    read -r leader <"$place/run/session"
    while read -r word pid ticks boot _; do
        if [ "$word $pid" = "started ${leader:-$pid}" ]; then leader=$pid since=$ticks && break; fi
    done <<END
$(dd bs=65536 count=1 <"$place/state")
END
    is_number "$leader" && is_number "$since" && [ "$boot" = "$boot_id" ] || return 0
    if read_stat "$leader" && [ "$start_ticks" != "$since" ]; then return; fi
    for entry in /proc/[0-9]*; do
        if [ -O "$entry" ] && read_stat "${entry#/proc/}" && [ "$session" = "$leader" ] && [ "$start_ticks" -ge "$since" ]; then
            kill -KILL "${entry#/proc/}"
        fi
    done
}

# Everything of the place but its readers.
kill_place() {
    if find_launcher; then kill -KILL "$launcher_pid"; fi
    sweep_session
    sweep CRONIUM_PLACE CRONIUM_TOKEN
}

# The job may have left directories that it cannot write to.
remove_place() {
    for pipe in "$place"/reader.*; do
        [ ! -p "$pipe" ] || echo end 1<>"$pipe"
    done
    rm -rf "$place" || { chmod -R u+rwx "$place" && rm -rf "$place"; }
}

# ---- Following files ----

# GNU's tail is woken by inotify, or looks every 10 ms. Others once a second if at all: there a moved descriptor is read again and
# again, less often in silence; its position tells whether something came.
# shellcheck disable=SC2016 # the text is expanded when it runs
follow_loop='
exec 3<"$1"
[ "$2" -eq 0 ] || dd bs=1 skip="$2" count=0 <&3
pause=0.02 quiet=0 before=
while cat <&3; do
    read -r _ at </proc/self/fdinfo/3
    if [ "$at" != "$before" ]; then
        before=$at pause=0.02 quiet=0
    elif [ "$quiet" -ge 50 ]; then
        pause=0.1
    else
        quiet=$((quiet + 1))
    fi
    sleep "$pause" || sleep 1
done
'
find_tail() {
    quick_tail=''
    if tail -c +1 -s 0.01 /dev/null; then quick_tail=1; fi
}
# FILE SKIP DESCRIPTOR: its pid in $!
follow() {
    if [ "$quick_tail" ]; then
        CRONIUM_READER=$name tail -c "+$(($2 + 1))" -s 0.01 -f "$1" >&"$3" 3>&- 4>&- 5>&- &
    else
        CRONIUM_READER=$name sh -c "$follow_loop" cronium-follow "$1" "$2" >&"$3" 3>&- 4>&- 5>&- &
    fi
}

# STREAM OFFSET: the segment that holds it, in $segment; false when there is none.
find_segment() {
    segment=''
    for entry in "$place/$1".*; do
        start=${entry##*.}
        if is_number "$start" && [ "$start" -le "$2" ] && [ "$start" -gt "${segment:--1}" ]; then segment=$start; fi
    done
    [ "$segment" ]
}

# Follows both streams, and goes where the words on the pipe say. `next` comes only when all before it has been read, so the old
# follower has nothing left to say.
read_streams() {
    follow "$place/stdout.$stdout_segment" $((stdout_offset - stdout_segment)) 3
    stdout_follower=$!
    follow "$place/stderr.$stderr_segment" $((stderr_offset - stderr_segment)) 4
    stderr_follower=$!
    while read -r word stream offset <&5; do
        case "$word $stream" in
            "next stdout")
                [ "$offset" != "$stdout_segment" ] || continue
                stdout_segment=$offset
                kill -KILL "$stdout_follower"
                wait "$stdout_follower"
                follow "$place/stdout.$offset" 0 3
                stdout_follower=$!
                ;;
            "next stderr")
                [ "$offset" != "$stderr_segment" ] || continue
                stderr_segment=$offset
                kill -KILL "$stderr_follower"
                wait "$stderr_follower"
                follow "$place/stderr.$offset" 0 4
                stderr_follower=$!
                ;;
            end*) break ;;
        esac
    done
    kill -KILL "$stdout_follower" "$stderr_follower"
    exit 0
}

# ---- The commands ----

# Each process that we wait for is a millisecond until the job starts: one makes all directories while another looks at the base's mode.
make_place() {
    set -- "$place" "$place/run" "$place/run/cronium-output"
    said=$(
        stat -c %a "$base" &
        if LC_ALL=C mkdir -m 0700 "$@" 2>&1; then wait; else echo failed; fi
    )
    case $said in
        *"File exists"*) refuse taken "$place" ;;
        *failed*)
            check_base
            said=$(LC_ALL=C mkdir -m 0700 "$@" 2>&1) # once more, for its last word alone
            rmdir "$place/run" "$place" || rmdir "$place"
            refuse_said "$said" "$place"
            ;;
    esac
    case $said in 700 | ?700) return ;; esac
    rm -rf "$place"
    check_mode "$said"
}

# Makes the place, starts its launcher on our stdin, and follows its output.
run() {
    learn
    [ -e "$base" ] || [ -L "$base" ] || make_base
    check_owner
    make_place
    # The first line of `state` means nothing, but takes the file's block: what is said later has room also on a full disk.
    if ! { printf 'place\n' >"$place/state" && printf '%20d %20d\n' 0 0 >"$place/credit" && printf '' >"$place/events" &&
        printf '' >"$place/results" && printf '' >"$place/stdout.0" && printf '' >"$place/stderr.0"; }; then
        rm -rf "$place"
        refuse no_space "$place"
    fi
    exec 5<&0
    unset CRONIUM_READER
    set -- sh -c "$launcher" cronium "$place" "$place/run" "$name"
    if command -v setsid >/dev/null; then set -- setsid "$@"; fi
    CRONIUM_PLACE=$name CRONIUM_STDIN_WAIT_S=$stdin_wait_s CRONIUM_REMOTE_TTL_S=$remote_ttl_s \
        "$@" <&5 >/dev/null 2>&1 3>&- 4>&- 5<&- &
    exec 5<&- </dev/null
    mkfifo -m 0600 "$place/reader.$reader"
    command exec 5<>"$place/reader.$reader" || refuse no_space "$place" # the launcher goes too: its stdin ends with us
    ready yes both
    find_tail
    stdout_segment=0 stderr_segment=0 stdout_offset=0 stderr_offset=0
    read_streams
}

# Goes on reading the output from the offsets stdout_offset and stderr_offset.
read_on() {
    learn
    exec </dev/null
    [ -d "$place" ] || refuse gone "$place"
    check_base
    find_segment stdout "$stdout_offset" || refuse gone "$place/stdout.$stdout_offset"
    stdout_segment=$segment
    find_segment stderr "$stderr_offset" || refuse gone "$place/stderr.$stderr_offset"
    stderr_segment=$segment
    mkfifo -m 0600 "$place/reader.$reader"
    command exec 5<>"$place/reader.$reader" || refuse no_space "$place"
    ready yes both
    find_tail
    read_streams
}

# FORMAT VALUE...: one write. What is answered carries the last `sign` that came: the script can write to `state`, and nobody could tell
# such text from an answer otherwise.
answer() {
    format=$1
    shift
    # shellcheck disable=SC2059 # a constant of ours, and hexadecimal digits
    printf "@cronium $sign$format\n" "$@" >&3
}

say_contact() {
    read -r uptime _ </proc/uptime
    printf '%s\n' "$reader $uptime $$" >"$place/contact"
}

look() {
    say_contact
    launcher_is=gone begun=no gate=no there=no
    if find_launcher; then launcher_is=alive; fi
    while read -r word _; do
        case $word in started | failed) begun=$word && break ;; esac
    done <<END
$(dd bs=65536 count=1 <"$place/state")
END
    [ ! -e "$place/gate" ] || gate=yes
    [ ! -d "$place" ] || there=yes
    answer 'look launcher=%s begun=%s gate=%s place=%s boot=%s' "$launcher_is" "$begun" "$gate" "$there" "$boot_id"
}

# STREAM OFFSET: the reader goes on there; what lies before is not needed any more.
go_on() {
    case $1 in stdout | stderr) is_number "$2" || return 0 ;; *) return 0 ;; esac
    [ -e "$place/$1.$2" ] || return 0
    tell_reader "next $1 $2"
    for entry in "$place/$1".*; do
        start=${entry##*.}
        if is_number "$start" && [ "$start" -lt "$2" ]; then rm -f "$entry"; fi
    done
}
tell_reader() {
    [ ! -p "$place/reader.$reader" ] || printf '%s\n' "$1" 1<>"$place/reader.$reader"
}

# Follows state and events, and does what comes on stdin, a word a line, until that ends.
keep() {
    learn
    rounds=0 sign=''
    until [ -e "$place/stderr.0" ] || [ -e "$place/launcher" ] || [ "$rounds" -ge "$wait_rounds" ]; do
        sleep 0.02 || sleep 1
        rounds=$((rounds + 1))
    done
    if [ ! -e "$place/state" ]; then
        ready no both
        exit 0
    fi
    check_base
    say_contact
    ready yes both
    find_tail
    follow "$place/state" "$state_offset" 3
    state_follower=$!
    follow "$place/events" "$events_offset" 4
    events_follower=$!
    while read -r word first second; do
        case $word in
            sign) case $first in *[!0-9a-f]*) ;; *) sign="$first " ;; esac ;;
            credit) printf '%20s %20s\n' "$first" "$second" 1<>"$place/credit" ;;
            next) go_on "$first" "$second" ;;
            look) look ;;
            cancel)
                told=gone
                [ "$first" = 1 ] || printf '' >"$place/at_once"
                if find_launcher && kill -TERM "$launcher_pid"; then told=told; fi
                answer 'cancel %s' "$told"
                ;;
            kill)
                kill_place
                answer 'kill done'
                ;;
            claim)
                if take_gate; then
                    kill_place
                    remove_place
                    answer 'claim won'
                else
                    answer 'claim lost'
                fi
                ;;
        esac
    done
    tell_reader end
    kill -KILL "$state_follower" "$events_follower"
    exit 0
}

# The results file, after the marker.
fetch() {
    learn
    [ -f "$place/results" ] || refuse gone "$place/results"
    check_base
    ready yes ''
    exec cat "$place/results" >&3
}

# NAME...: nothing of these places stays, whether there ever was one or not.
clean() {
    learn
    if [ -e "$base" ] || [ -L "$base" ]; then check_base; fi
    ready no ''
    for name; do
        place=$base/$name
        [ ! -d "$place" ] || kill_place
        sweep CRONIUM_PLACE CRONIUM_TOKEN CRONIUM_READER
        remove_place
        [ -e "$place" ] || printf '@cronium gone %s\n' "$name" >&3
    done
    printf '@cronium end\n' >&3
}

# NAME...: those whose script was never started, and never will be then, are removed; a job that somebody has started is left alone.
discard() {
    learn
    if [ -e "$base" ] || [ -L "$base" ]; then check_base; fi
    ready no ''
    for name; do
        place=$base/$name
        take_gate || continue
        kill_place
        sweep CRONIUM_READER
        remove_place
    done
    printf '@cronium end\n' >&3
}

# The places whose names begin with $prefix.
list() {
    learn
    if [ -e "$base" ] || [ -L "$base" ]; then check_base; fi
    ready no ''
    for place in "$base/$prefix"*; do
        [ ! -d "$place" ] || printf '@cronium place %s\n' "${place##*/}" >&3
    done
    printf '@cronium end\n' >&3
}
