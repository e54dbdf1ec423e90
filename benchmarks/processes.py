"""What Linux tells about processes: the members of a tree, their CPU time, their memory."""

from __future__ import annotations

import os
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def _read(path: str) -> str:
    try:
        return Path("/proc", path).read_text()
    except OSError:  # the process has gone
        return ""


def _stat(pid: int) -> list[str]:
    """The fields of the process behind its name, which may hold spaces; none for a process that has gone."""
    return _read(f"{pid}/stat").rpartition(")")[2].split()


def runs(pid: int) -> bool:
    return _stat(pid)[:1] not in ([], ["Z"])


def name_of(pid: int) -> str:
    return _read(f"{pid}/comm").strip()


def parent_of(pid: int, name: str) -> int | None:
    """The parent of the process, if there is one by this number and name on this machine."""
    return int(_stat(pid)[1]) if name_of(pid) == name else None


def tree(root: int) -> list[int]:
    """The process and all that come from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    members = [root]
    for member in members:  # grows meanwhile
        members += children.get(member, [])
    return members


def cpu_seconds(*roots: int | None) -> float:
    """CPU time of the trees so far, with that of members that have ended."""
    ticks = (int(ticks) for root in roots if root for pid in tree(root) for ticks in _stat(pid)[11:15])
    return sum(ticks) / TICK


def machine_seconds() -> tuple[float, float]:
    """CPU time that all processes of the machine used so far, and that there was."""
    user, nice, system, idle, wait, *rest = map(int, _read("stat").splitlines()[0].split()[1:9])
    busy = user + nice + system + sum(rest)
    return busy / TICK, (busy + idle + wait) / TICK


def peak_memories(*roots: int) -> list[float]:
    """MiB that each process of the trees has had at its highest."""
    return _status("VmHWM:", roots)


def memories(*roots: int) -> list[float]:
    """MiB that each process of the trees has now."""
    return _status("VmRSS:", roots)


def _status(name: str, roots: tuple[int, ...]) -> list[float]:
    pids = [pid for root in roots for pid in tree(root)]
    status = [line.split() for pid in pids for line in _read(f"{pid}/status").splitlines()]
    return [int(fields[1]) / 1024 for fields in status if fields[0] == name]


class Others:
    """The share of the machine's CPU time that neither we nor the server use: how far to trust a figure."""

    def __init__(self, server: int | None) -> None:
        self.server = server
        self.start = self._now()

    def _now(self) -> tuple[float, float]:
        busy, there_was = machine_seconds()
        return busy - cpu_seconds(os.getpid(), self.server), there_was

    def share(self) -> float:
        (used, there_was), (used_now, there_was_now) = self.start, self._now()
        return max(0.0, (used_now - used) / max(there_was_now - there_was, 0.01))
