#!/usr/bin/env bash
# make bench: installs what the measurements need, measures, prints the table. `scripts/bench.sh --only NAME --runs N`
# measures less. Docker Swarm is measured beside KAT where Docker's daemon is installed (Debian: docker.io).
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/say.sh

scripts/host.sh bench
scripts/install.sh .venv-test default,testing,lint
export PATH="$PWD/.venv-test/bin:$PATH:/usr/sbin:/sbin"
unset PYTHONPATH
.venv-test/bin/python -m bench "$@"
