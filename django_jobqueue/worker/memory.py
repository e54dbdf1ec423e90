"""Memory: how much of it this process has."""

from __future__ import annotations

import os
import sys
from pathlib import Path

MIB = 1024 * 1024
STATM = Path("/proc/self/statm")


def resident() -> float:
    """MiB of resident memory: now on Linux, elsewhere the most that it has ever been."""
    try:
        return int(STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB
    except OSError:
        return peak()


def peak() -> float:
    import resource  # not on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / MIB if sys.platform == "darwin" else most / 1024
