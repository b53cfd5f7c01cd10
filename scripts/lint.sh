#!/usr/bin/env bash
# make lint: style and types of the whole house, with the tools of .venv-test. Every tool runs, whatever another one said.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/say.sh

if [ "${1:-}" != --installed ]; then
    scripts/host.sh lint
    scripts/install.sh .venv-test default,testing,lint
fi
failed=0
say "ruff"
.venv-test/bin/ruff check . || failed=1
.venv-test/bin/ruff format --check --quiet . || failed=1
say "mypy --strict"
.venv-test/bin/mypy || failed=1
if command -v shellcheck >/dev/null; then
    say "shellcheck"
    shellcheck -x scripts/*.sh .ci/run || failed=1
fi
exit "$failed"
