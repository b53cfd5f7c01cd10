"""Writes constraints.txt: the versions a set-up was tried with, from what is installed in the running environment.

Run it with the Python of an environment that ``scripts/install.sh`` made. The pins hold for every Python that KAT
supports; what one of them does not need is not installed there, since a constraint asks for nothing.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "constraints.txt"
OURS = re.compile(r"kat(-.*)?")
HEAD = """\
# The versions KAT was tried with; made by scripts/constraints.py. Names and versions only: where they come from is
# pip's configuration.
"""


def main() -> None:
    """Write the pins of everything installed that is not ours."""
    pins = {
        re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower(): distribution.version
        for distribution in metadata.distributions()
    }
    lines = [
        f"{name}=={version}\n" for name, version in sorted(pins.items()) if not OURS.fullmatch(name) and name != "pip"
    ]
    TARGET.write_text(HEAD + "".join(lines))


if __name__ == "__main__":
    main()
