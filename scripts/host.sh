#!/usr/bin/env bash
# Installs what the host lacks: host.sh run|test|bench|lint. Says what and why first; does nothing when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/say.sh

purpose=${1:-run}

# package|what shows that it is there (a command, or a path)|why
python_needs='python3|python3|runs KAT
python3-venv|python:ensurepip|makes .venv'
run_needs='podman|podman|runs containers
conmon|conmon|keeps containers running without the agent
uidmap|newuidmap|user namespaces of containers
iproute2|ip|interfaces and addresses
nftables|nft|virtual addresses of services
wireguard-tools|wg|the overlay network
etcd-server|etcd|keeps the state of the cluster
etcd-client|etcdctl|restores backups of that state
util-linux|setpriv|ends children with their parent
git|git|sources of workloads
busybox-static|package:busybox-static|the image of the example
bind9-dnsutils|dig|asks the DNS at the end of make up'
test_needs='docker-registry|docker-registry|images are pulled from a real registry
procps|ps|looks for processes left behind
openssl|openssl|certificates by somebody else
e2fsprogs|mkfs.ext4|file systems for the disks of a lab'

needs=$python_needs
[ "$purpose" = lint ] || needs+=$'\n'$run_needs
{ [ "$purpose" = test ] || [ "$purpose" = bench ]; } && needs+=$'\n'$test_needs
bench_needs='dnsperf|dnsperf|the name server is asked by it
unbound|unbound|the name server is measured beside it'
[ "$purpose" = bench ] && needs+=$'\n'$bench_needs
if [ "$purpose" != lint ]; then
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        needs+=$'\ncrun|crun|starts containers (cgroup v2)'
    else
        needs+=$'\nrunc|runc|starts containers (crun refuses the cgroup v1 of this host)'
    fi
    if [ ! -d /sys/module/wireguard ] && ! modinfo wireguard >/dev/null 2>&1; then
        needs+=$'\nwireguard-go|wireguard-go|the overlay network (this kernel has no WireGuard)'
    fi
fi

is_there() {
    case "$1" in
    package:*) dpkg-query -W -f='${Status}' "${1#package:}" 2>/dev/null | grep -q 'ok installed' ;;
    python:*) "$(scripts/python.sh --any 2>/dev/null)" -c "import ${1#python:}, venv" 2>/dev/null ;;
    *) PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null ;;
    esac
}

missing=()
while IFS='|' read -r package sign why; do
    is_there "$sign" && continue
    [ ${#missing[@]} = 0 ] && say "this host lacks:"
    note "$(printf '%-18s %s' "$package" "$why")"
    missing+=("$package")
done <<<"$needs"
[ ${#missing[@]} = 0 ] && exit 0

command -v apt-get >/dev/null || fail "no apt-get here: install these by the means of your system, then try again"
agreed "Install these ${#missing[@]} packages with apt-get?" || fail "nothing was changed: KAT needs them"

# Some packages start a daemon of their own (etcd, docker-registry) on ports KAT wants. A policy forbids it while they
# are installed, and what they enabled for the next boot is disabled again.
policy=/usr/sbin/policy-rc.d
put_policy() { [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null && as_root chmod 755 "$policy" && ours=1; }; }
ours=0
trap '[ "$ours" = 0 ] || as_root rm -f "$policy"' EXIT
put_policy
say "installing ${#missing[@]} packages"
export DEBIAN_FRONTEND=noninteractive
as_root apt-get update -qq
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
if [ -d /run/systemd/system ]; then
    for unit in etcd docker-registry; do
        case " ${missing[*]} " in *" $unit"*) as_root systemctl disable --quiet "$unit.service" 2>/dev/null || true ;; esac
    done
fi
