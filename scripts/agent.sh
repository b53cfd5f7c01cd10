#!/usr/bin/env bash
# agent.sh start|stop|running|log: the agent as a systemd unit where systemd runs, else under scripts/supervise.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/say.sh

bin=$PWD/.venv/bin
unit=/etc/systemd/system/kat-agent.service
pidfile=/run/kat-up/supervisor.pid
log=/var/log/kat-agent.log

systemd_runs() { [ -d /run/systemd/system ]; }

supervisor() {
    # The number in the file may have become somebody else's process: the command line tells.
    local pid
    pid=$(as_root cat "$pidfile" 2>/dev/null) || return 1
    { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -q "supervise.sh $pidfile" && echo "$pid"
}

running() {
    if systemd_runs; then systemctl is-active --quiet kat-agent; else supervisor >/dev/null; fi
}

start() {
    if systemd_runs; then
        wanted=$(sed "s|@BIN@|$bin|" scripts/kat-agent.service)
        if [ "$(cat "$unit" 2>/dev/null)" != "$wanted" ]; then
            printf '%s\n' "$wanted" | as_root tee "$unit" >/dev/null
            as_root systemctl daemon-reload
        fi
        as_root systemctl enable --quiet --now kat-agent
    else
        running || as_root scripts/supervise.sh "$pidfile" "$log" "$bin/kat-agent" run
    fi
}

stop() {
    if systemd_runs; then
        [ ! -e "$unit" ] || as_root systemctl disable --quiet --now kat-agent
        as_root rm -f "$unit"
        as_root systemctl daemon-reload
        return
    fi
    local pid
    if pid=$(supervisor); then
        as_root kill -TERM "$pid"
        for _ in $(seq 300); do
            kill -0 "$pid" 2>/dev/null || as_root test -d "/proc/$pid" || break
            sleep 0.1
        done
        ! as_root test -d "/proc/$pid" || fail "the agent (supervisor $pid) does not end; see $log"
    fi
    as_root rm -rf "$(dirname "$pidfile")" "$log" "$log.1"
}

restart() {
    if systemd_runs; then as_root systemctl restart kat-agent; else
        # Ending the agent alone is enough: the supervisor starts the new one. Containers do not notice.
        local pid
        pid=$(supervisor) && as_root pkill -TERM -P "$pid"
    fi
}

show_log() {
    if systemd_runs; then as_root journalctl -u kat-agent -n 40 --no-pager; else as_root tail -n 40 "$log"; fi
}

case "${1:-}" in
start) start ;;
stop) stop ;;
restart) restart ;;
running) running ;;
log) show_log ;;
*) fail "usage: agent.sh start|stop|restart|running|log" ;;
esac
