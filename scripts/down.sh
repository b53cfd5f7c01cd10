#!/usr/bin/env bash
# make down: stops the agent and removes everything KAT made on this host. Volumes are kept unless you say otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/say.sh

bin=$PWD/.venv/bin
data=/var/lib/kat # dataPath of examples/cluster.kat

volumes=keep
if as_root test -d "$data/volumes" && [ -n "$(as_root ls -A "$data/volumes" 2>/dev/null)" ]; then
    if [ "${KAT_DELETE_VOLUMES:-}" = 1 ]; then
        volumes=delete
    elif asking; then
        read -r -p "    Delete the volumes in $data/volumes too? Their data cannot be had back. [y/N] " answer
        case "$answer" in [yY]*) volumes=delete ;; esac
    fi
fi

say "stopping the agent"
scripts/agent.sh stop

if ! as_root test -e "$data/node.json"; then
    note "there is no node on this host: nothing to remove"
elif [ -x "$bin/kat-agent" ]; then
    say "removing what KAT made; volumes: $volumes"
    options=(--yes)
    [ "$volumes" = delete ] && options+=(--delete-volumes)
    kat_agent reset "${options[@]}"
else
    fail "there is no .venv to reset with: run 'make up' once more, then 'make down'"
fi
[ "$volumes" = delete ] || ! as_root test -d "$data/volumes" || note "volumes are kept in $data/volumes"
say "done"
