#!/usr/bin/env bash
# make lint: style and types of the whole house, with the tools of .venv-test.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/say.sh

if [ "${1:-}" != --installed ]; then
    scripts/host.sh lint
    scripts/install.sh .venv-test default,testing,lint
fi
say "ruff"
.venv-test/bin/ruff check .
.venv-test/bin/ruff format --check --quiet .
say "mypy --strict"
.venv-test/bin/mypy
if command -v shellcheck >/dev/null; then
    say "shellcheck"
    shellcheck -x scripts/*.sh .ci/run
fi
