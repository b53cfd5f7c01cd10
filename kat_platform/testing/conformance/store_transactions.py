"""Conformance of a store: transactions."""

from __future__ import annotations

import asyncio

from kat_platform.errors import InvalidInput, NotFound, TooLarge
from kat_platform.interfaces.store import Compare, Delete, Field, Get, Op, Put, Store
from kat_platform.testing.conformance.kit import Kit, require
from kat_platform.testing.conformance.store_keys import ROOT

TRANSACTIONS: Kit[Store] = Kit("store: transactions")


@TRANSACTIONS.check("then runs when every comparison holds, else otherwise")
async def picks_the_branch(store: Store) -> None:
    key = ROOT + "k"
    made = await store.transaction((Compare.absent(key),), (Put(key, b"1"),), (Put(key, b"never"),))
    require(made.succeeded, "absent() did not hold for a key that does not exist")
    again = await store.transaction((Compare.absent(key),), (Put(key, b"never"),), (Get(key),))
    require(not again.succeeded, "absent() held for a key that exists")
    require(again.reads and again.reads[0][0].value == b"1", "otherwise did not read the key")
    require(again.revision == made.revision, "a transaction that only read raised the revision")
    both = (Compare.unchanged(key, made.revision), Compare.unchanged(key, made.revision + 7))
    mixed = await store.transaction(both, (Delete(key),))
    require(not mixed.succeeded, "a transaction ran though one of two comparisons does not hold")
    require(await store.get(key) is not None, "the branch not chosen was run")


@TRANSACTIONS.check("all operations of a transaction are one revision, seen together or not at all")
async def is_atomic(store: Store) -> None:
    keys = [f"{ROOT}pair/{n}" for n in range(4)]
    await store.transaction((), tuple(Put(key, b"0") for key in keys))
    done = asyncio.Event()

    async def write() -> None:
        for number in range(1, 80):
            result = await store.transaction((), tuple(Put(key, b"%d" % number) for key in keys))
            page = await store.list(ROOT + "pair/")
            require({entry.revision for entry in page.entries} == {result.revision}, "one transaction, many revisions")
        done.set()

    async def read() -> None:
        while not done.is_set():
            page = await store.list(ROOT + "pair/")
            require(len({entry.value for entry in page.entries}) == 1, "half a transaction was seen")
            await asyncio.sleep(0)

    reader = asyncio.create_task(read())
    try:
        await write()
    finally:
        done.set()
    await reader


@TRANSACTIONS.check("a refused transaction changes nothing")
async def refused_changes_nothing(store: Store) -> None:
    before = (await store.list(ROOT)).revision
    try:
        await store.transaction((), (Put(ROOT + "a", b""), Put(ROOT + "b", b"", lease=123456789)))
    except NotFound:
        require((await store.list(ROOT)).revision == before, "a refused transaction raised the revision")
        require(await store.get(ROOT + "a") is None, "a refused transaction wrote something")
        return
    require(False, "a transaction with a lease that does not exist was accepted; it must be NotFound")


@TRANSACTIONS.check("every field compares with every operator; a missing key has 0, and no value")
async def compares_fields(store: Store) -> None:
    key, lease = ROOT + "c", await store.lease(60)
    first = await store.put(key, b"m", lease=lease.id)
    second = await store.put(key, b"m", lease=lease.id)
    actual: dict[Field, int] = {Field.REVISION: second, Field.CREATED: first, Field.VERSION: 2, Field.LEASE: lease.id}
    cases: list[tuple[Compare, bool]] = []
    for field, number in actual.items():
        for op, offsets in ((Op.EQUAL, (0,)), (Op.NOT_EQUAL, (-1, 1)), (Op.GREATER, (-1,)), (Op.LESS, (1,))):
            cases += [(Compare(key, field, op, number + o), o in offsets) for o in (-1, 0, 1)]
    for op, matching in ((Op.EQUAL, b"m"), (Op.NOT_EQUAL, b"ln"), (Op.GREATER, b"l"), (Op.LESS, b"n")):
        cases += [(Compare(key, Field.VALUE, op, bytes([v])), v in matching) for v in b"lmn"]
    gone = ROOT + "gone"
    cases += [(Compare(gone, field, Op.EQUAL, 0), True) for field in actual]
    cases += [(Compare(gone, Field.VALUE, op, b""), False) for op in Op]
    for compare, wanted in cases:
        result = await store.transaction((compare,), ())
        require(result.succeeded is wanted, f"{compare} should {'' if wanted else 'not '}hold")


@TRANSACTIONS.check("reads come in the order of their operations, a prefix sorted")
async def reads_in_order(store: Store) -> None:
    await store.transaction((), (Put(ROOT + "r/2", b"2"), Put(ROOT + "r/1", b"1"), Put(ROOT + "q", b"q")))
    result = await store.transaction(
        (), (Get(ROOT + "q"), Put(ROOT + "other", b""), Get(ROOT + "r/", prefix=True), Get(ROOT + "none"))
    )
    keys = [[entry.key for entry in read] for read in result.reads]
    require(keys == [[ROOT + "q"], [ROOT + "r/1", ROOT + "r/2"], []], f"reads came as {keys}")


@TRANSACTIONS.check("of many that compare and set at once, none is lost")
async def compare_and_set(store: Store) -> None:
    key = ROOT + "count"
    await store.put(key, b"0")

    async def increment() -> None:
        while True:
            entry = await store.get(key)
            require(entry is not None, "the counter vanished")
            assert entry is not None
            put = Put(key, b"%d" % (int(entry.value) + 1))
            if (await store.transaction((Compare.unchanged(key, entry.revision),), (put,))).succeeded:
                return
            await asyncio.sleep(0)

    await asyncio.gather(*(increment() for _ in range(16)))
    entry = await store.get(key)
    require(entry is not None and entry.value == b"16", f"16 increments gave {entry and entry.value!r}")


@TRANSACTIONS.check("128 operations fit; more than max_operations are TooLarge; nothing is written then")
async def has_a_limit(store: Store) -> None:
    require(store.max_operations >= 128, f"max_operations is {store.max_operations}, below 128")
    await store.transaction((), tuple(Put(f"{ROOT}l/{n}", b"") for n in range(128)))
    before = (await store.list(ROOT)).revision
    try:
        await store.transaction((), tuple(Put(f"{ROOT}m/{n}", b"") for n in range(store.max_operations + 1)))
    except TooLarge:
        require((await store.list(ROOT)).revision == before, "a transaction that is too large wrote something")
        return
    require(False, "a transaction with more than max_operations was accepted")


@TRANSACTIONS.check("a key written twice, or written and removed, in one branch is InvalidInput")
async def refuses_double_writes(store: Store) -> None:
    for branch in (
        (Put(ROOT + "t", b"1"), Put(ROOT + "t", b"2")),
        (Put(ROOT + "t", b"1"), Delete(ROOT + "t")),
        (Delete(ROOT, prefix=True), Put(ROOT + "t", b"1")),
    ):
        try:
            await store.transaction((), branch)
        except InvalidInput:
            continue
        require(False, f"a branch that writes a key twice was accepted: {branch}")
    require(await store.get(ROOT + "t") is None, "a refused transaction wrote something")
