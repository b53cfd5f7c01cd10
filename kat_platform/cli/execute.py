"""exec: run a command in an instance, with a terminal where that is wanted; its exit code is ours."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import termios
import tty as terminal
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlencode

import click

from kat_platform.cli.client import Client, at, error_of
from kat_platform.cli.get import need_workload
from kat_platform.cli.race import CONNECT_SECONDS, SERVER_NAME
from kat_platform.cli.session import Session, split_workload, talks
from kat_platform.errors import Conflict, KatError, NotFound, Unavailable

STDIN: Final = b"\x00"
RESIZE: Final = b"\x03"
STDOUT_CHANNEL, STDERR_CHANNEL, EXIT_CHANNEL = 1, 2, 4
_READ: Final = 32 * 1024
_BEGIN_SECONDS: Final = 300.0
"""How long the command may take to begin: the server has to reach the agent of the node first."""


@click.command("exec", context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option("-i", "--stdin", "stdin", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", "tty", is_flag=True, help="Give the command a terminal.")
@click.argument("workload", metavar="WORKLOAD[/INSTANCE]")
@click.argument("command", metavar="[--] COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@talks
def execute(session: Session, stdin: bool, tty: bool, workload: str, command: tuple[str, ...]) -> int:
    """Run COMMAND in a ready instance of WORKLOAD (or in INSTANCE), and end with its exit code."""
    words = command[1:] if command[0] == "--" else command
    if not words:
        raise click.UsageError("name a command: katcall exec WORKLOAD -- COMMAND")
    if tty and not (sys.stdin.isatty() and sys.stdout.isatty()):
        click.echo("warning: there is no terminal here, so -t is left out", err=True)
        tty = False
    name, instance = split_workload(workload)
    instance = instance or _choose(session, name)
    path = at("namespaces", session.namespace, "instances", instance, "exec")
    query = urlencode([*(("command", word) for word in words), ("tty", str(int(tty))), ("stdin", str(int(stdin)))])
    # Before the loop, which would hold a Ctrl-C back. Of servers that are dead, aiohttp would wait for each in turn.
    server = session.client.reach()
    with _raw(tty and stdin):
        return asyncio.run(_run(session.client, server, f"{path}?{query}", stdin=stdin, tty=tty))


def _choose(session: Session, name: str) -> str:
    need_workload(session, name)
    path = at("namespaces", session.namespace, "instances")
    items = session.client.request("GET", path, params={"workload": name}).data["items"]
    best = sorted(items, key=lambda item: (not item["ready"], item["phase"] != "Running", item["name"]))
    if not best or best[0]["phase"] != "Running":
        raise Conflict(f"workload '{name}' has no running instance", hint=f"katcall get instances; katcall why {name}")
    return str(best[0]["name"])


@contextlib.contextmanager
def _raw(wanted: bool) -> Iterator[None]:
    """Let every key reach the command, Ctrl-C included; the terminal is as before afterwards, whatever happens."""
    if not wanted:
        yield
        return
    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)
    try:
        terminal.setraw(handle)
        yield
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)


async def _run(client: Client, server: str, target: str, *, stdin: bool, tty: bool) -> int:
    import aiohttp

    patience = aiohttp.ClientTimeout(total=_BEGIN_SECONDS, sock_connect=CONNECT_SECONDS)
    async with aiohttp.ClientSession(headers=client.headers, timeout=patience) as session:
        try:
            async with session.ws_connect(
                f"{server.rstrip('/')}{target}",
                ssl=client.tls,
                server_hostname=SERVER_NAME,
                heartbeat=20.0,
                max_msg_size=2**20,
            ) as socket:
                return await _talk(socket, stdin=stdin, tty=tty)
        except aiohttp.WSServerHandshakeError as error:
            raise _refused(error) from None
        except (aiohttp.ClientError, OSError) as error:
            why = str(error) or f"nothing comes within {_BEGIN_SECONDS:g} s"
            raise Unavailable(f"the API at {server} does not answer: {why}") from None


def _refused(error: Any) -> KatError:
    known = {
        401: "the server does not accept our credential",
        403: "you may not run commands there",
        404: "there is no such instance, or it has no running container",
        409: "the instance is not running",
    }
    if error.status == 404:
        return NotFound(known[404])
    return error_of(error.status, {"detail": known.get(error.status, f"the server answered {error.status}")})


async def _talk(socket: Any, *, stdin: bool, tty: bool) -> int:
    loop = asyncio.get_running_loop()
    if tty:
        await _resize(socket)
        loop.add_signal_handler(signal.SIGWINCH, lambda: loop.create_task(_resize(socket), name="resize"))
    feeding = asyncio.create_task(_feed(socket), name="exec-stdin") if stdin else None
    try:
        async for message in socket:
            if not isinstance(message.data, bytes) or not message.data:
                continue
            channel, data = message.data[0], message.data[1:]
            if channel in (STDOUT_CHANNEL, STDERR_CHANNEL):
                _write(sys.stdout if channel == STDOUT_CHANNEL else sys.stderr, data)
            elif channel == EXIT_CHANNEL:
                return _exit_code(json.loads(data))
    finally:
        if feeding is not None:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
        if tty:
            loop.remove_signal_handler(signal.SIGWINCH)
    raise Unavailable("the connection broke off before the command ended; it may still be running")


def _exit_code(found: dict[str, Any]) -> int:
    if "error" in found:
        problem = found["error"]
        raise error_of(int(problem.get("status", 500)), problem)
    return int(found["exitCode"])


def _write(stream: Any, data: bytes) -> None:
    stream.buffer.write(data)
    stream.buffer.flush()


async def _resize(socket: Any) -> None:
    size = shutil.get_terminal_size()
    await socket.send_bytes(RESIZE + json.dumps({"rows": size.lines, "columns": size.columns}).encode())


async def _feed(socket: Any) -> None:
    """Pass standard input on; a file or a pipe cannot be watched everywhere, so a thread reads it."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Queue[bytes] = asyncio.Queue(4)

    def read() -> None:
        while True:
            data = os.read(sys.stdin.fileno(), _READ)
            try:
                asyncio.run_coroutine_threadsafe(ready.put(data), loop).result()
            except (RuntimeError, asyncio.CancelledError):
                return  # the command has ended
            if not data:
                return

    import threading

    threading.Thread(target=read, name="exec-stdin", daemon=True).start()
    while True:
        data = await ready.get()
        await socket.send_bytes(STDIN + data)
        if not data:
            return
