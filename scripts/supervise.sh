#!/usr/bin/env bash
# supervise.sh PIDFILE LOG COMMAND...: keeps a command running where no systemd does: starts it again when it dies, with
# a pause that grows from 1 to 10 s, and outlives the terminal. A TERM to the process in PIDFILE ends both.
set -uo pipefail

pidfile=$1 log=$2
shift 2

if [ "${KAT_SUPERVISED:-}" != 1 ]; then
    # A session of its own, no terminal, nothing inherited: closing the terminal reaches neither of the two.
    mkdir -p "$(dirname "$pidfile")" "$(dirname "$log")"
    [ ! -f "$log" ] || [ "$(stat -c %s "$log")" -lt 20000000 ] || mv -f "$log" "$log.1"
    (umask 077 && : >>"$log")
    # shellcheck disable=SC2094 # the name is handed on, so that the log can be named
    KAT_SUPERVISED=1 setsid --fork "$0" "$pidfile" "$log" "$@" </dev/null >>"$log" 2>&1
    exit
fi

cd /
echo $$ >"$pidfile"
child=
ending=0
stop() {
    ending=1
    [ -z "$child" ] || kill -TERM "$child" 2>/dev/null
}
trap stop TERM INT
trap '' HUP
pause=1
while [ "$ending" = 0 ]; do
    began=$SECONDS
    env -u KAT_SUPERVISED "$@" &
    child=$!
    # wait returns early when a signal arrives; the child is waited for until it has really gone.
    while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
    child=
    [ "$ending" = 0 ] || break
    [ $((SECONDS - began)) -lt 30 ] || pause=1
    echo "supervise: $1 ended with code ${code:-?}; starting it again in ${pause} s"
    sleep "$pause" &
    wait $!
    pause=$((pause * 2 < 10 ? pause * 2 : 10))
done
rm -f "$pidfile"
