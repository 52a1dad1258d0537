# shellcheck shell=sh
#
# The launcher: runs one job in its place. Plain POSIX sh (dash, busybox ash, bash), passed as text:
#
#     sh -c "$LAUNCHER" cronium FILES RUN [TOKEN]
#
# In a container it is the child of the container's init; on a server TOKEN is given, and what it may kill is then only what
# carries CRONIUM_TOKEN=TOKEN in its environment, is in the script's session, or descends from the script.
#
# On a server FILES is a directory of this job alone, and output is in segments there: `stdout.0`, then `stdout.OFFSET`, each named by
# the offset of its first byte. A segment is gone on from when it has as many bytes as may be unread, and credit says its very end;
# whoever reads removes it then. Further there: `launcher` with our PID START_TICKS, written first of all, and `gate`, a
# file that is made by us just before the script starts, or by whoever gives the job up: it runs only if it was us.
# `at_once` there, made by whoever cancels, ends the grace with the next TERM.
# CRONIUM_REMOTE_TTL_S (whole seconds) makes us the keeper of FILES: when nothing ever comes we remove it; after the job's end we stay,
# and remove it when `contact` there has not changed for so long. CRONIUM_PLACE, by which we are found, is not for the job either.
#
# FILES  stdout stderr events results state: ours to append to. credit: ours to read, "%20d %20d\n", for each stream the offset
#        that is safe elsewhere.
# RUN    private directory (made when missing): spec, script, input data, helpers, pipes. CRONIUM_DIR of the script.
# stdin  one tar stream: spec, env, script, input.json, variables.json, event.json, helpers/*, and last an empty `complete`.
#        spec has a line each: version, interpreter, working directory, deadline and grace in seconds, most unread bytes a
#        stream, most bytes of results. Environment CRONIUM_STDIN_WAIT_S: how long to wait for the first byte (120).
#
# Lines of `state`, one write each: started PID START_TICKS BOOT_ID | ended CODE exit|deadline|cancel |
#        segment STREAM OFFSET | output_waits STREAM REASON | output_lost STREAM REASON DETAIL | results SIZE | results_too_large SIZE | results_failed DETAIL |
#        usage PEAK_MEMORY CPU_USEC RX TX PIDS_HITS OOM_KILLS | drained STDOUT_SIZE STDERR_SIZE (last) |
#        failed REASON DETAIL (not started)
#
# Signals: TERM cancels, and may be said again by whoever takes the job over: it cuts no grace. USR1, USR2 and ALRM are the alarms'.
# Two that come at the same moment are one to bash 5.2 in `wait`: the handler of the higher number jumps out of it, and out of the
# other's handler. Only TERM, the highest, is sure to be heard; so what else must be is a file too, or is said again.
#
# Exit code: the script's; 125 when it could not be started (126, 127: its interpreter), 143 when told to go before a job came.
#
# Processes: init, this, two pumps with a child each, the alarm with its sleep, the wrapper: nine beside the job's own. The job may
# leave no pid to fork with, and a shell ends on a failed fork; so between the script's start and the death of the job's last
# process nothing here forks but the pumps and the alarm, and both know how to go on.

files=$1 run=$2 token=${3-}
stdin_wait_s=${CRONIUM_STDIN_WAIT_S:-120} ttl_s=${CRONIUM_REMOTE_TTL_S-}
unset CRONIUM_STDIN_WAIT_S CRONIUM_REMOTE_TTL_S
newline='
'

# ---- The pump: copies a pipe into a file, never further ahead of `credit` than the job's limit ----
#
# A text of its own, because it starts itself anew with `exec` (same pid, same descriptors, no fork) when a fork fails: at that
# point it has taken nothing from the pipe. No quote of the single kind in it. Its descriptors: 0 the pipe, 1 the file (append),
# 5 a pipe for what its commands say, as RUN may be full and $( ) would leak two descriptors with each failed fork; 9 state.
# dd counts every read, also a short one, so fewer reads than asked for means the end of the stream.
#
# What dd has read is lost when the disk has no room for it. So before each dd it is looked whether there is some, and one dd may
# write no more than is reserved: in a container by whoever reads us (512 KiB, then an eighth of what there is), on a server by us.
# The pump reads on when there is room again; once the job is cut off it does not wait for that.
# shellcheck disable=SC2016 # the text is expanded when it runs
pump='
files=$1 run=$2 stream=$3 told=$4 reads=$5 base=$6 block=4096
file=$files/$stream${base:+.$base}
trap "exec \"\$CRONIUM_SHELL\" -c \"\$CRONIUM_PUMP\" cronium-pump \"\$files\" \"\$run\" \"\$stream\" \"\$told\" 0 \"\$base\"" EXIT

tell() {
    case " $told " in *" $1$2 "*) return ;; esac
    told="$told $1$2"
    printf "output_%s %s %s%s\n" "$1" "$stream" "$2" "${3:+ $3}" >&9
}

have_room() {
    limit="" size="" stdout="" stderr="" total="" free="" available="" unit=""
    { read -r _; read -r _; read -r _; read -r _; read -r _; read -r limit; } <"$run/spec"
    stat -c %s "$file" >&5
    stat -f -c "disk %b %f %a %S" "$file" >&5
    printf "end\n" >&5
    while read -r word blocks all ours bytes <&5 && [ "$word" != end ]; do
        case $word in
            disk) total=$blocks free=$all available=$ours unit=$bytes ;;
            *) size=$word ;;
        esac
    done
    read -r stdout stderr _ <"$files/credit"
    case $stream in stdout) credit=$stdout ;; *) credit=$stderr ;; esac
    # A read between two writes of credit gives a number that is too low, perhaps with zeros in front: octal to the shell.
    case $credit in "" | *[!0-9]* | 0?*) return 1 ;; esac
    case $size in "" | *[!0-9]*) return 1 ;; esac
    case $limit in "" | *[!0-9]*) limit=67108864 ;; esac
    reads=$(((credit + limit - ${base:-0} - size) / 65536))
    [ -z "$base" ] || fit_segment || return
    [ "$reads" -ge 1 ] || return
    most=$(((${base:-0} + size) / 524288)) block=65536
    [ "$most" -ge 8 ] || most=8
    [ "$most" -le 1024 ] || most=1024
    [ "$reads" -le "$most" ] || reads=$most
    if fit_disk; then
        # Many small blocks, so that a line at a time is not a dd for every few of them.
        [ "$most" -ge 256 ] || { block=$((most * 256)) reads=$((reads * 256 / most)); }
    elif [ -e "$run/cut" ]; then
        reads=1
    else
        reads=0
        tell waits disk_full
        return 1
    fi
}

fit_disk() {
    [ ! -O / ] || available=$free # what a file system keeps for root
    # Some have no such figures, or none that are true: all of them 0.
    case $total in "" | 0 | *[!0-9]*) available="" ;; esac
    case $unit in "" | *[!0-9]*) available="" ;; esac
    case $available in
        "" | *[!0-9]*) ;;
        *)
            room=$(((available * unit - 1048576) / 262144)) # for both streams, and others write here too
            [ "$room" -ge 1 ] || return
            [ "$reads" -le "$room" ] || reads=$room
            ;;
    esac
    [ "$base" ] || return 0
    until reserve $((reads * 65536)); do
        [ "$reads" -gt 1 ] || return
        reads=1
    done
}

# BYTES behind the end of a segment; false when there is no space for them, true also where nobody can tell.
reserve() {
    full=""
    fallocate -n -o "$size" -l "$1" "$file" 2>&5
    printf "end\n" >&5
    while read -r line <&5 && [ "$line" != end ]; do
        case $line in *"No space left"*) full=yes ;; esac
    done
    [ -z "$full" ]
}

fit_segment() {
    room=$(((limit - size + 65535) / 65536))
    if [ "$size" -ge "$limit" ]; then
        reads=0
        end=$((base + size))
        [ "$credit" -ge "$end" ] || return
        command exec >>"$files/$stream.$end" || return
        base=$end file=$files/$stream.$end size=0 room=$((limit / 65536)) reads=$((limit / 65536))
        printf "segment %s %s\n" "$stream" "$base" >&9
    fi
    [ "$reads" -le "$room" ] || reads=$room
}

copy() {
    got="" put="" reason=write_error
    dd bs="$block" count="$reads" 2>&5
    status=$?
    printf "end\n" >&5
    while read -r line <&5 && [ "$line" != end ]; do
        case $line in
            *+*" records in") got=${line% records in} ;;
            *+*" records out") put=${line% records out} ;;
            *"No space left"* | *"uota exceeded"*) reason=disk_full ;;
            *"File too large"*) reason=file_limit ;;
        esac
    done
    [ "$status" -ne 153 ] || reason=file_limit # 128 + SIGXFSZ
}

size=0
[ -z "$base" ] || [ "$reads" -eq 0 ] || reserve "$block" # for the first words, however late they come
while :; do
    tries=0
    until [ "$reads" -ge 1 ] || have_room; do
        tries=$((tries + 1))
        if [ "$base" ] && [ "$tries" -le 20 ]; then sleep 0.01; else sleep 0.1; fi # a segment is soon gone on from
    done
    copy
    if [ "$reason" = file_limit ]; then
        tell lost file_limit "after_${put:-?}_blocks"
        trap - EXIT
        exec dd bs=65536 >/dev/null
    elif [ -z "$got" ]; then
        [ "$status" -le 128 ] || tell lost write_error "copier_killed_by_signal_$((status - 128))"
        sleep 0.1
    elif [ "$got" != "$put" ]; then
        tell lost "$reason" "read_${got}_wrote_$put"
        sleep 1
    elif [ $((${got%+*} + ${got#*+})) -lt "$reads" ]; then
        trap - EXIT
        exit 0
    fi
    reads=0
done
'

# ---- Small things ----

say() { printf '%s\n' "$*" >&9; }

# NAME or absolute path: its path is in $program. 127 when PATH has none, 126 when it is there but not executable.
find_program() {
    program="" missing=127
    case $1 in
        /*)
            [ ! -f "$1" ] || missing=126
            if [ -f "$1" ] && [ -x "$1" ]; then program=$1 missing=0; fi
            return "$missing"
            ;;
    esac
    set -f
    IFS=:
    for folder in $PATH; do
        if [ -f "$folder/$1" ]; then
            missing=126
            if [ -x "$folder/$1" ]; then
                program=$folder/$1 missing=0
                break
            fi
        fi
    done
    unset IFS
    set +f
    return "$missing"
}

# PID or self: pid, state, parent, session, start_ticks from /proc/PID/stat; false when there is no such process.
# The name in it may hold blanks, brackets and newlines: all up to the last bracket is skipped.
read_stat() {
    stat="" state="" parent="" session="" start_ticks=""
    while read -r line; do stat="$stat$line "; done <"/proc/$1/stat"
    [ "$stat" ] || return 1
    pid=${stat%% *}
    # shellcheck disable=SC2086 # split on purpose: all numbers but the state
    set -- ${stat##*) }
    state=$1 parent=$2 session=$4 start_ticks=${20}
}

# PID: gone, or a zombie.
is_gone() {
    read_stat "$1" || return 0
    case $state in Z | X) ;; *) return 1 ;; esac
}

# PID STATUS: waits for it, however often a signal comes between. Its status is in $status, or STATUS when a signal hid it. (Not waited
# for again once it has gone: bash 5.2 may then wait for ever.)
await() {
    interrupted=1
    while [ "$interrupted" ]; do
        interrupted=""
        wait "$1"
        status=$?
        if [ "$interrupted" ] && is_gone "$1"; then
            status=$2
            return
        fi
    done
    [ "$status" -ne 127 ] || status=$2
}

# ALARM: it and its sleep go. Said until it is heard: just after its fork a shell loses a signal that its parent had a trap for.
silence() {
    until is_gone "$1"; do kill -TERM "$1"; done
}

# SECONDS SIGNAL [GRACE]: sends us SIGNAL after SECONDS, or as soon as RUN/cut is there and CONT is sent to it; and USR2 after GRACE more, each
# second again, or at once when it cannot fork any more. (CONT does no harm, and RUN/cut tells all, when it comes before there is a trap for it.)
# Its pid is in $alarm. It looks whether it is still our child, for a pid may be somebody else's by then.
start_alarm() {
    (
        ring() {
            read_stat self && [ "$parent" -eq $$ ] && kill -"$1" $$
        }
        doze() {
            if [ -z "$cut$over" ]; then
                sleep "$1" &
                nap=$!
                [ -z "$cut$over" ] || kill -KILL "$nap" # anything milder may be lost, so soon after its fork
                wait "$nap"
            fi
            if [ "$over" ]; then
                trap - EXIT
                exit 0
            fi
        }
        nap="" cut="" over=""
        [ -z "${3-}" ] || trap 'ring USR2' EXIT
        trap 'over=1; kill -KILL "$nap"' TERM
        trap 'cut=1; kill -KILL "$nap"' CONT
        [ ! -e "$run/cut" ] || cut=1
        doze "$1"
        ring "$2"
        trap "" CONT
        cut=""
        doze "${3-0}"
        while [ "${3-}" ] && ring USR2; do doze 1; done
    ) </dev/null >/dev/null 3<&- 4<&- 7>&- 8>&- 9>&- &
    alarm=$!
}

# ---- What belongs to the job, and how it is ended ----

# PID: is it the job's? Climbs to whom it descends from: the wrapper (the job's), us or one of ours (not the job's), nobody in this
# place (came by the engine's exec: not the job's), or init (an orphan: the job's in a container; on a server the token says).
# The answer is in $ours, yes or empty, and found by `case` where a wrong one would strike others: a signal that comes while a handler
# runs spoils the status of the command it meets in dash 0.5.12, and what `read` gets in bash 5.2.
of_job() {
    ours=""
    case $1 in 1 | "$$" | "$wrapper" | "$pump_stdout" | "$pump_stderr" | "$alarm") return ;; esac
    read_stat "$1"
    case $state in "" | Z | X) return ;; esac
    # What was there before the script is not looked at closer: on a server that is nearly everything.
    [ -z "$since" ] || [ "$start_ticks" -ge "$since" ] || return
    case $session in "$script_session") ours=yes && return ;; esac
    # A server is full of others: to look closer at each of theirs takes long. (In a container a process may look like root's.)
    [ -z "$token" ] || [ -O "/proc/$1" ] || return
    while :; do
        case $parent in
            "$wrapper") ours=yes && return ;;
            0 | "$$" | "$pump_stdout" | "$pump_stderr" | "$alarm") return ;;
            1) break ;;
        esac
        read_stat "$parent"
        case ${state:-gone$disturbed} in gone) break ;; gone1) return ;; esac
    done
    case $token in "") ours=yes && return ;; esac
    environment=""
    while read -r line || [ "$line" ]; do environment="$environment$line "; done <"/proc/$1/environ"
    case $environment in *"CRONIUM_TOKEN=$token"*) ours=yes ;; esac
}

# The script's session, in $script_session where it has one of its own. It may have removed RUN; on a server its start is in `state` too.
find_session() {
    [ "$setsid" ] && [ -z "$script_session" ] || return 0
    read -r script_session <"$run/session"
    [ "$token" ] && [ -z "$script_session" ] || return 0
    while read -r word number _; do
        case $word in started) script_session=$number && break ;; esac
    done <"$files/state"
}

# SIGNAL: to every process of the job, once to each, with builtins only; true when there was one. Whom a look has missed because a
# signal came between is found by another look; by a few at most, for a script can send us as many as it likes.
strike() {
    find_session
    struck="" looks=0 disturbed=1
    while [ "$disturbed" ] && [ "$looks" -lt 5 ]; do
        looks=$((looks + 1)) disturbed=""
        for entry in /proc/[0-9]*; do
            case $struck/ in *"$entry/"*) continue ;; esac
            of_job "${entry#/proc/}"
            case $ours in yes) kill -"$1" "${entry#/proc/}" && struck=$struck$entry ;; esac
        done
    done
    [ "$struck" ]
}

# STREAM: nobody has read it since its pump was killed, which only the job can have done. (It has met a broken pipe, as with any
# reader that goes. No trap on CHLD tells it earlier: with one, the wait of bash 5.2 now and then misses the wrapper's end.)
tell_lost() { say "output_lost $1 pump_lost -"; }

# All that a signal can lead to, looked at anew with each: the handlers only raise flags, and never run into one another.
act() {
    case $stage in
        waiting)
            if [ "$cancelled" ] || { [ "$nobody" ] && [ ! -e "$run/spec" ]; }; then kill -KILL "$reader"; fi
            ;;
        running | ending)
            case $stage:$cancelled$deadline in
                running: | ending:* | killing:*) ;;
                *)
                    stage=ending why=cancel
                    case $cancelled in "") why=deadline ;; esac
                    strike TERM
                    # Last, for the alarm answers with a signal. (No `:`: of the failed redirection of a special builtin a shell ends, and
                    # the script may have removed all of RUN.)
                    printf "" >"$run/cut"
                    kill -CONT "$alarm"
                    ;;
            esac
            [ ! -e "$files/at_once" ] || late=1
            case $stage$late in ending1) stage=killing ;; esac
            case $stage in killing) strike KILL ;; esac
            ;;
    esac
}
attend() {
    interrupted=1 pending=1 disturbed=1
    while [ "$pending" ] && [ -z "$acting" ]; do
        acting=1 pending=""
        act
        acting=""
    done
}
stage=waiting why=exit cancelled="" deadline="" late="" nobody="" acting="" disturbed=""
reader="" wrapper="" pump_stdout="" pump_stderr="" alarm="" script_session="" since=""
trap 'cancelled=1; attend' TERM
trap 'deadline=1; attend' USR1
trap 'late=1; attend' USR2
trap 'nobody=1; attend' ALRM
trap : HUP

# ---- Before the job is there: all that can be made ready ----

command exec 9>>"$files/state" || exit 125
command exec 3<&0 || exec 3</dev/null
exec 2>/dev/null

# As in remote.sh.
show_environments() {
    set --
    for entry in "/proc/$$/../"[0-9]*; do
        set -- "$@" "$entry/environ"
        [ $# -lt 500 ] || { head -c 2097152 "$@" /dev/null; set --; }
    done
    head -c 2097152 "$@" /dev/null /dev/null
}

remove_files() {
    for pipe in "$files"/reader.*; do
        [ ! -p "$pipe" ] || echo end 1<>"$pipe"
    done
    # Who still follows or listens here after a moment does so for a connection that is dead without the server knowing. Found as in
    # remote.sh, and before the name is free again.
    sleep 0.5 || sleep 1
    for entry in $(
        show_environments | tr '\000' '\n' |
            LC_ALL=C sed -n -e "\\,^==> /proc/$$/\\.\\./[0-9]*/environ <==\$,{s,.*/\\.\\./\\([0-9]*\\)/.*,\\1,;h;}" \
                -e "/^CRONIUM_READER=$token\$/{x;p;x;}" |
            sort -u
    ); do
        entries=$newline$(tr '\n\000' '\001\n' <"/proc/$entry/environ")$newline
        case $entries in *"${newline}CRONIUM_READER=$token$newline"*) kill -KILL "$entry" ;; esac
    done
    rm -rf "$files" || { chmod -R u+rwx "$files" && rm -rf "$files"; }
}

# Until the place is gone, or nobody has come back for so long.
keep_files() {
    cd /
    pause_s=10 quiet_s=0 contact=""
    [ "$ttl_s" -ge 40 ] || pause_s=$((ttl_s / 4))
    [ "$pause_s" -ge 1 ] || pause_s=1
    while [ -d "$files" ]; do
        before=$contact contact=""
        read -r contact <"$files/contact"
        [ "$contact" = "$before" ] || quiet_s=0
        if [ "$quiet_s" -ge "$ttl_s" ]; then
            remove_files
            break
        fi
        sleep "$pause_s"
        quiet_s=$((quiet_s + pause_s))
    done
}

# As in remote.sh.
take_gate() {
    set -C
    printf "" >"$files/gate"
    set -- "$?"
    set +C
    return "$1"
}

# CODE REASON DETAIL: the script is not started.
fail() {
    code=$1
    shift
    say "failed $*"
    [ -z "$reader" ] || kill -KILL "$reader"
    [ ! -e "$run/env" ] || printf "" >"$run/env" # it has secrets, and the place may stay
    [ -z "$alarm" ] || silence "$alarm"
    exec 7>&- 8>&-
    case ${ttl_s:+$1} in
        "" | given_up) ;;
        no_input | cancelled) if take_gate; then remove_files; fi ;;
        *) keep_files ;;
    esac
    exit "$code"
}

if [ "$token" ]; then
    read_stat self
    printf '%s\n' "$$ $start_ticks" >"$files/launcher" || fail 125 disk_full "$files"
fi

# Without a token everything here is the job's: true in a container, where init is our parent (or we are init), and nowhere else.
[ "$token" ] || [ $$ -eq 1 ] || [ "$PPID" -eq 1 ] || fail 125 no_place "not the child of a container's init, and no token"

output=$run/cronium-output
[ -d "$run" ] || mkdir -m 0700 "$run" ${token:+"$output"}
# Reads the job, which may be there already, while we make the rest. So does the look whether env can do what is wanted of it below.
tar -C "$run" -xomf - <&3 >/dev/null 3<&- 9>&- &
reader=$!
exec 3<&- </dev/null
find_program env
"$program" --default-signal=INT,QUIT true 9>&- &
probe=$!
signals="$program --default-signal=INT,QUIT"
mkfifo -m 0600 "$run/stdout.pipe" "$run/stderr.pipe" "$run/stdout.said" "$run/stderr.said" || fail 125 run_directory "$run"
[ "$token" ] || [ ! -w /workspace ] || output=/workspace/cronium-output
[ -d "$output" ] || mkdir "$output"
boot_id=-
read -r boot_id </proc/sys/kernel/random/boot_id
find_program setsid
setsid=$program

# Opened both ways first, because the other ways wait for the other side.
exec 5<>"$run/stdout.pipe" 6<>"$run/stderr.pipe"
exec 7>"$run/stdout.pipe" 8>"$run/stderr.pipe"
find_program sh
start_pump() {
    (
        trap "" HUP INT QUIT TERM USR1 USR2 ALRM PIPE
        export CRONIUM_PUMP="$pump" CRONIUM_SHELL="$program" LC_ALL=C
        exec 3<&- 6<&- 7>&- 8>&- 5<>"$run/$1.said"
        exec "$program" -c "$pump" cronium-pump "$files" "$run" "$1" "" 1 "${token:+0}"
    ) <&4 >>"$files/$1${token:+.0}" 4<&- &
}
exec 4<"$run/stdout.pipe"
start_pump stdout
pump_stdout=$!
exec 4<"$run/stderr.pipe"
start_pump stderr
pump_stderr=$!
exec 4<&- 5<&- 6<&-

# ---- The job comes ----

start_alarm "$stdin_wait_s" ALRM
attend
await "$probe" 1
# A shell without job control starts its background processes with INT and QUIT ignored, and the script could not take that back.
[ "$status" -eq 0 ] || signals=""
await "$reader" 0
reader=""
[ -z "$cancelled" ] || fail 143 cancelled "before the job came"
if [ "$token" ] && [ "$status" -ne 0 ]; then
    printf '%8192s' "" >"$run/probe" || fail 125 disk_full "$run"
    [ ! -e "$run/spec" ] || fail 125 incomplete
fi
[ -e "$run/spec" ] || fail 125 no_input
[ -e "$run/complete" ] || fail 125 incomplete
{
    read -r version
    read -r interpreter
    IFS= read -r directory
    read -r deadline_s
    read -r grace_s
    read -r _
    read -r max_results_bytes
} <"$run/spec"
[ "$version" = 1 ] || fail 125 spec_version "$version"
find_program "$interpreter"
case $? in
    126) fail 126 interpreter_not_executable "$interpreter" ;;
    127) fail 127 interpreter_missing "$interpreter" ;;
esac
interpreter=$program
if [ "$directory" ]; then
    [ -d "$directory" ] || mkdir -p -- "$directory"
    cd -- "$directory" || fail 125 working_directory "$directory"
fi

if [ "$token" ] && ! take_gate; then
    if [ -d "$files" ] && [ ! -e "$files/gate" ]; then fail 125 disk_full "$files"; fi
    fail 125 given_up
fi

# ---- The script ----

# The wrapper's only task is to tell the script's exit code without ambiguity; it has none of the job's environment.
# The innermost shell becomes the script. From the environment's first line on it trusts no variable, PATH or IFS, only its arguments.
[ "$setsid" ] || set -m
(
    (
        read_stat self
        printf '%s\n' "$pid" >"$run/session"
        say "started $pid $start_ticks $boot_id"
        # shellcheck disable=SC2086 # $signals: words, or nothing at all
        set -- "$run" "$files" "$output" "$token" ${setsid:+"$setsid"} $signals "$interpreter" "$run/script"
        exec >&7 2>&8 7>&- 8>&- 9>&-
        unset CRONIUM_PLACE
        # shellcheck disable=SC1091 # comes with the job
        . "$1/env"
        printf "" >"$1/env"
        export CRONIUM_DIR="$1" CRONIUM_EVENTS="$2/events" CRONIUM_OUTPUT_DIR="$3"
        export PATH="$1/helpers${PATH:+:$PATH}" PYTHONUNBUFFERED="${PYTHONUNBUFFERED-1}"
        export PYTHONPATH="$1/helpers${PYTHONPATH:+:$PYTHONPATH}" NODE_PATH="$1/helpers${NODE_PATH:+:$NODE_PATH}"
        [ -z "$4" ] || export CRONIUM_TOKEN="$4"
        shift 4
        exec "$@"
    )
    code=$?
    printf '%s\n' "$code" >"$run/code"
    exit "$code"
) &
wrapper=$!
if [ "$token" ]; then read_stat "$wrapper" && since=$start_ticks; fi
set +m
stdin_alarm=$alarm
[ "$deadline_s" != 0 ] || deadline_s=999999999
start_alarm "$deadline_s" USR1 "$grace_s"
exec 7>&- 8>&-
stage=running
attend
kill -TERM "$stdin_alarm"
find_session
await "$wrapper" 137
stage=ended
code=$status
read -r code <"$run/code"
[ "$code" ] || code=$status # the disk was full
say "ended $code $why"

# ---- After the script ----

# What it left running goes, so that the pipes end. Hot at first, as a process takes no time to die and one that forks is to be outrun.
passes=0
while strike KILL; do
    passes=$((passes + 1))
    [ "$passes" -le 50 ] || sleep 0.1
    if [ "$passes" -ge 150 ]; then # cannot be killed: it shall not hold the job
        kill -KILL "$pump_stdout" "$pump_stderr"
        break
    fi
done
silence "$stdin_alarm"
silence "$alarm"

# A pump whose output nobody comes for would wait for ever.
keeper=""
if [ "$ttl_s" ]; then
    (
        keep_files
        for pump in "$pump_stdout" "$pump_stderr"; do
            read_stat "$pump" && [ "$parent" -eq $$ ] && kill -KILL "$pump"
        done
    ) </dev/null >/dev/null 9>&- &
    keeper=$!
fi

await "$pump_stdout" 0
[ "$status" -eq 0 ] || tell_lost stdout
await "$pump_stderr" 0
[ "$status" -eq 0 ] || tell_lost stderr

# The file size limit cuts the archive, exactly and without a pipe; it counts in blocks of 512.
collect_results() {
    set -- "$output"/* "$output"/.[!.]* "$output"/..?*
    while [ $# -gt 0 ] && [ ! -e "$1" ] && [ ! -L "$1" ]; do shift; done
    [ $# -gt 0 ] || return 0
    (
        ulimit -f $((max_results_bytes / 512 + 1))
        exec tar -C "$output" -cf - . >"$files/results"
    )
    status=$?
    size=$(stat -c %s "$files/results")
    if [ "${size:-0}" -gt "$max_results_bytes" ]; then
        say "results_too_large $size"
    elif [ "$status" -ne 0 ]; then
        say "results_failed tar_exit_$status"
    else
        say "results $size"
    fi
}
collect_results

# First word of the first line that starts with KEY (or of the only line): a number, in $value; - where unknown.
look_up() {
    value=-
    while read -r key number _; do
        case $# in 2) [ "$key" = "$2" ] || continue ;; *) number=$key ;; esac
        case $number in "" | *[!0-9]*) ;; *) value=$number ;; esac
        break
    done <"$1"
}
# The place's control group, version 2 or 1. A server's own figures are not the job's.
say_usage() {
    memory=- cpu=- rx=- tx=- pids=- oom=-
    if [ -z "$token" ]; then
        group=/sys/fs/cgroup
        if [ -e $group/cgroup.controllers ]; then
            look_up $group/memory.peak
            memory=$value
            look_up $group/memory.events oom_kill
            oom=$value
            look_up $group/cpu.stat usage_usec
            cpu=$value
            look_up $group/pids.events max
            pids=$value
        else
            look_up $group/memory/memory.max_usage_in_bytes
            memory=$value
            look_up $group/memory/memory.oom_control oom_kill
            oom=$value
            look_up $group/cpuacct/cpuacct.usage
            [ "$value" = - ] || cpu=$((value / 1000))
            look_up $group/pids/pids.events max
            pids=$value
        fi
        rx=0 tx=0
        while IFS=': ' read -r interface received _ _ _ _ _ _ _ sent _; do
            case $interface$received in lo* | *[!0-9a-zA-Z._@-]* | *[!0-9]) continue ;; esac
            rx=$((rx + received)) tx=$((tx + sent))
        done </proc/net/dev
    fi
    say "usage $memory $cpu $rx $tx $pids $oom"
}
say_usage

# STREAM: the offset of its end, in $end
find_end() {
    last=-1 end=-
    for entry in "$files/$1".*; do
        start=${entry##*.}
        case $start in "" | *[!0-9]* | 0?* | ???????????????????*) continue ;; esac
        [ "$start" -le "$last" ] || last=$start
    done
    size=$(stat -c %s "$files/$1.$last")
    [ -z "$size" ] || end=$((last + size))
}
if [ "$token" ]; then
    find_end stdout
    stdout_end=$end
    find_end stderr
    set -- "$stdout_end" "$end"
else
    # shellcheck disable=SC2046 # two numbers
    set -- $(stat -c %s "$files/stdout" "$files/stderr")
fi
say "drained ${1:--} ${2:--}"
if [ "$keeper" ]; then
    kill -KILL "$keeper"
    keep_files
fi
exit "$code"
