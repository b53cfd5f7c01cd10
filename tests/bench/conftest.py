"""Makes the measurements importable: they are no part of what is installed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # last: KAT itself is the one under test
