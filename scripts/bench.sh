#!/usr/bin/env bash
# make bench: installs what the measurements need and runs each of bench/*.py; `bench.sh NAME...` runs some of them.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/say.sh

scripts/host.sh test
scripts/install.sh .venv-test default,testing,lint
export PATH="$PWD/.venv-test/bin:$PATH:/usr/sbin:/sbin"
unset PYTHONPATH
[ $# -gt 0 ] || set -- bench/*.py
for measure in "$@"; do
    say "$measure"
    .venv-test/bin/python "$measure"
done
