#!/bin/sh
# Removes a throw-away cluster when the program that made it is gone, however it went.
#
# watch.sh DIRECTORY: reads lines from standard input until it closes, which it does when the other
# end's process ends. `+PID` names a process that must not outlive it, `-PID` takes that back. Then
# every server with a data directory in DIRECTORY/*/data is stopped, and DIRECTORY is removed.

trap '' INT TERM HUP QUIT
directory=$1
wards=' '
while read -r line; do
    pid=${line#?}
    case $line in
    +*) wards="$wards$pid " ;;
    -*) wards=$(printf %s "$wards" | sed "s/ $pid / /") ;;
    esac
done

# One that leads a group of its own has children that must not outlive it either (Pgpool-II's do).
for pid in $wards; do
    kill -9 "-$pid" 2>/dev/null
    kill -9 "$pid" 2>/dev/null
done

# The server of a data directory, if it lives: a process of that number that works there. The number
# alone could be another process's by now.
server_of() {
    pid=$(head -n 1 "$1/postmaster.pid" 2>/dev/null) || return 1
    [ "$(readlink "/proc/$pid/cwd" 2>/dev/null)" = "$(readlink -f "$1")" ] && echo "$pid"
}

# All processes that work in a data directory: the server and its children.
processes_in() {
    for process in /proc/[0-9]*; do
        [ "$(readlink "$process/cwd" 2>/dev/null)" = "$(readlink -f "$1")" ] && echo "${process#/proc/}"
    done
}

for data in "$directory"/*/data; do
    if pid=$(server_of "$data"); then
        # Who was stopped (SIGSTOP) hears nothing else.
        for process in $(processes_in "$data"); do kill -CONT "$process" 2>/dev/null; done
        kill -QUIT "$pid" 2>/dev/null
        left=50
        while [ "$left" -gt 0 ] && kill -0 "$pid" 2>/dev/null; do
            left=$((left - 1))
            sleep 0.1
        done
        kill -9 "$pid" 2>/dev/null
    elif [ -f "$data/postmaster.pid" ]; then
        # Killed, not stopped: its shared memory segment is still there.
        segment=$(sed -n 7p "$data/postmaster.pid" | awk '{print $2}')
        [ -z "$segment" ] || ipcrm -m "$segment" 2>/dev/null
    fi
done
rm -rf "$directory"
