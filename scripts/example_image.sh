#!/usr/bin/env bash
# Builds the example's image, from a static busybox and nothing else, into the image store of this node's runtime.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/say.sh

image=localhost/kat/hello:1
data=/var/lib/kat # dataPath of examples/cluster.kat

# The runtime's driver keeps its storage apart from the host's; its configuration files say where.
conf=$(as_root find "$data" -maxdepth 4 -path '*/etc/storage.conf' -print -quit)
[ -n "$conf" ] || fail "no container storage below $data: is the agent running? (scripts/agent.sh log)"
store() { as_root env "CONTAINERS_CONF=$(dirname "$conf")/containers.conf" "CONTAINERS_STORAGE_CONF=$conf" \
    "CONTAINERS_REGISTRIES_CONF=$(dirname "$conf")/registries.conf" podman "$@"; }

# Labelled with a digest of its sources, so that it is built again when they change and only then.
digest=$( (cd examples/simple-service/image && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum; sha256sum /bin/busybox) | sha256sum | cut -c1-16)
if [ "$(store image inspect --format '{{index .Labels "kat.source"}}' "$image" 2>/dev/null)" = "$digest" ]; then
    note "$image is there already"
    exit 0
fi
context=$(mktemp -d /tmp/kat-image-XXXXXX)
trap 'rm -rf "$context"' EXIT
cp -r examples/simple-service/image/. /bin/busybox "$context"
chmod 755 "$context"
find "$context/www" -name '*.cgi' -exec chmod 755 {} +
store build --quiet --label "kat.source=$digest" --tag "$image" "$context" >/dev/null
note "built $image"
