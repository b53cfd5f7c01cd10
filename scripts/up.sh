#!/usr/bin/env bash
# make up: from a clone to a running, reachable example. Every step may be repeated; a second run changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/say.sh

bin=$PWD/.venv/bin

say "looking at the host"
scripts/host.sh run

before=$(cat .venv/kat-installed 2>/dev/null || true)
scripts/install.sh .venv default
after=$(cat .venv/kat-installed)

if ! scripts/agent.sh running; then
    say "kat-agent check"
    kat_agent check --config examples/cluster.kat

    say "kat-agent init"
    code=0
    answer=$(kat_agent init --config examples/cluster.kat 2>&1) || code=$?
    # 4 is a conflict: it has been initialised before, and init has changed nothing.
    case "$code" in
    0) while read -r line; do note "$line"; done <<<"$answer" ;;
    4) note "this host is initialised already" ;;
    *) printf '%s\n' "$answer" >&2 && exit "$code" ;;
    esac
fi

if scripts/agent.sh running; then
    if [ "$before" != "$after" ]; then
        say "restarting the agent with the new version; containers keep running"
        scripts/agent.sh restart
    else
        note "the agent is running"
    fi
else
    say "starting the agent"
    scripts/agent.sh start
fi

ready=0
for _ in $(seq 150); do
    if "$bin/katcall" get nodes -o name >/dev/null 2>&1; then ready=1 && break; fi
    sleep 0.2
done
if [ "$ready" = 0 ]; then
    "$bin/katcall" get nodes -o name || true
    scripts/agent.sh log >&2
    fail "the API does not answer after 30 s; the agent's last words are above"
fi

say "building the example's image"
scripts/example_image.sh

say "katcall apply examples/simple-service --wait"
"$bin/katcall" apply examples/simple-service --wait --timeout 60s

say "katcall get instances"
"$bin/katcall" get instances

say "asking the example"
"$bin/python" scripts/first_light.py hello
say "done. Try: .venv/bin/katcall get instances; take it all away with: make down"
