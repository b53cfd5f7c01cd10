"""Shell: runs the host's own small programs (``ip``, ``nft``), and says in words what failed."""

from __future__ import annotations

import subprocess

from kat_platform.errors import HostNotReady, KatError, TimedOut


def run(*command: str, feed: str | None = None, timeout: float = 30.0) -> str:
    """Run a command and give its output; raises ``HostNotReady`` when it is not installed, ``KatError`` when it fails.

    ``timeout`` in seconds.
    """
    try:
        done = subprocess.run(command, input=feed, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError:
        raise HostNotReady(
            f"'{command[0]}' is not installed", hint="a lab needs iproute2, util-linux and nftables"
        ) from None
    except subprocess.TimeoutExpired:
        raise TimedOut(f"'{' '.join(command[:4])}' did not end within {timeout:g} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[:400]
        raise KatError(f"'{' '.join(command)}' failed: {said}")
    return done.stdout


def attempt(*command: str) -> bool:
    """Run a command whose failure only means that there was nothing to do."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def inside(namespace: str, *command: str) -> tuple[str, ...]:
    """Give a command that runs in a network namespace and nowhere else.

    Not with ``ip netns exec``: that mounts another /sys, in which containers' control groups cannot be seen.
    """
    return ("nsenter", f"--net=/run/netns/{namespace}", "--", *command)
