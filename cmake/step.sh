#!/bin/sh
# Runs one step of the set-up: shows its name, how long it has been running and what it is at, and how long it took.
# What the command prints goes to the end of a log, whose last lines are shown if it fails. With V=1 in the environment
# all of it is shown as it comes, and nothing is logged.
#
#   cmake/step.sh LOG NAME COMMAND [ARGUMENT ...]

log=$1 name=$2
shift 2
if [ "${V:-0}" != 0 ]; then
    echo "$name"
    exec "$@"
fi

begin=$(date +%s)
elapsed() { echo $(($(date +%s) - begin)); }

# Over and over on one line of the terminal, until this script ends or is gone.
show_progress() {
    while kill -0 $$ 2> /dev/null; do
        printf '\r\033[K%s ... %s s  %s' "$name" "$(elapsed)" "$(tail -n 1 "$log" | tr -d '\r' | cut -c 1-50)"
        sleep 1
    done
}
stop_progress() {
    [ -z "$progress" ] || kill "$progress" 2> /dev/null
    progress=
}

mkdir -p "$(dirname "$log")"
printf '\n%s: %s\n' "$name" "$*" >> "$log"
progress=
trap stop_progress EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
if [ -t 1 ]; then
    show_progress &
    progress=$!
    clear='\r\033[K'
else
    clear=
    printf '%s ...' "$name"
fi

"$@" >> "$log" 2>&1
status=$?
stop_progress
if [ $status = 0 ]; then
    [ -n "$clear" ] && printf "$clear%s ..." "$name"
    printf ' %s s\n' "$(elapsed)"
    exit 0
fi
printf "$clear\n" 
{
    echo "\"$name\" failed after $(elapsed) s. The last lines of $log:"
    tail -n 15 "$log" | sed 's/^/    /'
    echo "All that was printed is in $log; V=1 behind make shows it as it comes."
} >&2
exit $status
