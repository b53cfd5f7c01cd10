"""The pure part of applying: differences and what is kept."""

from __future__ import annotations

import copy

from hypothesis import given
from hypothesis import strategies as st

from kat_platform.server.apply import HISTORY, field_changes, trimmed

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.text(max_size=3))
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(st.sampled_from("wxyz"), TREES, max_size=4)


@given(DOCUMENTS)
def test_a_document_does_not_differ_from_itself(document):
    assert field_changes("K", "", "n", document, copy.deepcopy(document)) == []


@given(DOCUMENTS, DOCUMENTS)
def test_documents_that_differ_say_where(before, after):
    found = field_changes("K", "", "n", before, after)
    same = repr(before) == repr(after) or _equal(before, after)
    assert bool(found) is not same
    assert len({entry.path for entry in found}) == len(found)


def _equal(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@given(st.sets(st.integers(1, 60)), st.integers(1, 60), st.sets(st.integers(1, 60)))
def test_trimming_keeps_the_newest_the_target_and_what_is_used(numbers, target, used):
    dropped = set(trimmed(numbers, target, used))
    assert dropped <= numbers
    assert not dropped & {target, *used, *sorted(numbers)[-HISTORY:]}
    kept = numbers - dropped
    assert len(kept) <= HISTORY + len(used) + 1
