#!/usr/bin/env bash
# install.sh VENV EXTRAS: makes the virtual environment and installs KAT from freshly built wheels into it.
# Every wheel of ours is named by its path: the public index has other people's things under some of these names.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/say.sh

venv=$1 extras=$2
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

python=$(scripts/python.sh)
if ! "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    say "making $venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet --upgrade --constraint constraints.txt setuptools wheel
fi

say "building wheels into dist/"
wheels=$("$venv/bin/python" scripts/wheels.py)
mapfile -t wheels <<<"$wheels"

# The core's wheel comes first and takes the extras.
stamp=$(cat "${wheels[@]}" constraints.txt <(echo "$extras") | sha256sum)
if [ "$(cat "$venv/kat-installed" 2>/dev/null)" = "$stamp" ]; then
    note "already installed, unchanged"
    exit 0
fi
rm -f "$venv/kat-installed"
say "installing kat[$extras] from dist/"
"$venv/bin/pip" install --quiet --constraint constraints.txt "${wheels[0]}[$extras]" "${wheels[@]:1}"
# pip leaves a wheel of the same version alone even if its content is another.
"$venv/bin/pip" install --quiet --no-deps --force-reinstall "${wheels[@]}"
"$venv/bin/pip" check
echo "$stamp" >"$venv/kat-installed"
