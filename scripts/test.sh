#!/usr/bin/env bash
# make test: sets itself up, then style, types and every test, against KAT as installed from its wheels. Works in names,
# folders and namespaces of its own; what a test leaves behind is removed, told, and fails the run.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/say.sh

[ "$(id -u)" = 0 ] || fail "the tests with real parts need root: sudo make test"
scripts/host.sh test
scripts/install.sh .venv-test default,testing,lint
bin=$PWD/.venv-test/bin

failed=0
# Short: Unix sockets below it may have paths of 107 characters at most.
TMPDIR=$(mktemp -d /tmp/kt-XXXXXX)
export TMPDIR KAT_TEST_RUN="${TMPDIR##*/}" KAT_TEST_INSTALLED=1 PYTHONDONTWRITEBYTECODE=1
# The tools installed for the tests come first; nothing of the caller's Python must leak in.
export PATH="$bin:$PATH:/usr/sbin:/sbin"
unset PYTHONPATH
"$bin/python" scripts/leftovers.py before >"$TMPDIR.before"
# Style and types are looked at while tests on real parts run, which leave a core idle now and then.
lint=
clear_up() {
    [ -z "$lint" ] || kill "$lint" 2>/dev/null || true
    "$bin/python" scripts/leftovers.py after "$TMPDIR.before" || failed=1
    rm -rf --one-file-system "$TMPDIR" "$TMPDIR.before" "$TMPDIR.lint"
}
trap 'clear_up; exit 130' INT TERM HUP

arguments=("$@")
# A worker takes whole files, in the order that conftest.py gives them: the longest first.
files=(--dist loadfile --no-loadscope-reorder)
real="real and not soak"
[ "${KAT_TEST_SOAK:-}" != 1 ] || real=real
for round in $(seq "${KAT_TEST_ROUNDS:-1}"); do
    say "tests of decisions, on all cores (round $round)"
    "$bin/pytest" -q -n auto "${files[@]}" -m "not real" "${arguments[@]}" </dev/null || failed=1
    if [ "$round" = 1 ]; then
        nice scripts/lint.sh --installed >"$TMPDIR.lint" 2>&1 </dev/null &
        lint=$!
    fi
    say "tests on real parts, two files at a time: they mostly wait (round $round)"
    "$bin/pytest" -q -n 2 "${files[@]}" -m "$real" "${arguments[@]}" </dev/null || failed=1
done
wait "$lint" || failed=1
lint=
cat "$TMPDIR.lint"
trap - INT TERM HUP
clear_up
[ "$failed" = 0 ] || fail "not everything passed; see above"
say "all passed"
