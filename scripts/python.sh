#!/usr/bin/env bash
# Prints a Python that KAT can use: 3.11 or later, with venv. `--any` accepts one without. The system's own is preferred.
set -euo pipefail
check='import sys; sys.exit(sys.version_info < (3, 11))'
[ "${1:-}" = --any ] || check="import ensurepip, venv; $check"
for candidate in "${KAT_PYTHON:-}" /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
    if [ -n "$candidate" ] && "$candidate" -c "$check" 2>/dev/null; then
        command -v "$candidate"
        exit 0
    fi
done
echo "error: no Python 3.11 or later with venv: install python3 and python3-venv, or name one in KAT_PYTHON" >&2
exit 1
