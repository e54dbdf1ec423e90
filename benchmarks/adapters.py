"""The adapters of the peers, each call in a process of its own: enqueuing ones, and workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Container
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from . import processes

SCRIPT = Path(__file__).parent / "peers" / "adapter.py"
GRACE = 20  # seconds between SIGTERM and SIGKILL
Env = dict[str, str]


class Failed(Exception):
    """A peer did not do what is measured; the message says what it did."""


def command(peer: str, *args: object) -> list[str]:
    return [sys.executable, str(SCRIPT), peer, *map(str, args)]


def call(peer: str, *args: object, env: Env | None = None) -> Any:
    """What the adapter of the peer answers."""
    done = subprocess.run(command(peer, *args), env={**os.environ, **(env or {})}, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"{args[0]}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def about(peer: str, code: Path | None = None) -> dict[str, Any]:
    """What a peer says of itself, its code taken from a checkout if one is named."""
    return call(peer, "about", env=code_env(code))


def code_env(code: Path | None) -> Env:
    """Lets the adapters import from the checkout first."""
    if code is None:
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")]))}


def installed(wanted: Container[str] | None = None) -> dict[str, dict[str, Any]]:
    """What each peer whose distribution is there, or each of those, says of itself; the others are named on stderr."""
    found = {}
    for name in sorted(path.stem.removeprefix("peer_") for path in SCRIPT.parent.glob("peer_*.py")):
        if wanted is not None and name not in wanted:
            continue
        try:
            found[name] = about(name)
        except Failed as error:
            print(f"{name} is left out: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
    return found


def enqueue(peer: str, how: str, task: str, counts: list[int], env: Env) -> tuple[float, float]:
    """Enqueue so many jobs, by a process for each count, all at the same time.

    The seconds from first to last, and the CPU seconds of all.
    """
    with ExitStack() as stack:
        writers = []
        for count in counts:
            log = stack.enter_context(tempfile.TemporaryFile("w+"))
            process = subprocess.Popen(
                command(peer, how, task, count),
                env={**os.environ, **env},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            writers.append((process, log))
        _tell(writers, "ready\n")
        return _span(writers)


def _tell(writers: list[tuple[subprocess.Popen[str], Any]], ready: str) -> None:
    """Start them all as soon as the last of them can."""
    for process, log in writers:
        if process.stdout.readline() != ready:
            log.seek(0)
            raise Failed(f"enqueue: {log.read()[-3000:]}")
    for process, _log in writers:
        process.stdin.write("go\n")
        process.stdin.flush()


def _span(writers: list[tuple[subprocess.Popen[str], Any]]) -> tuple[float, float]:
    spans = []
    for process, log in writers:
        output = process.communicate()[0]
        if process.returncode:
            log.seek(0)
            raise Failed(f"enqueue: {log.read()[-3000:]}")
        spans.append(json.loads(output.splitlines()[-1]))
    starts, ends, cpu = zip(*spans, strict=True)
    return max(ends) - min(starts), sum(cpu)


class Workers:
    """Worker processes of a peer, for as long as the ``with`` block runs."""

    def __init__(self, peer: str, env: Env, count: int = 1) -> None:
        self.peer, self.env, self.count = peer, env, count

    def __enter__(self) -> Workers:
        self.log = tempfile.TemporaryFile("w+")
        self.processes = [self._start() for _ in range(self.count)]
        self.pids = [process.pid for process in self.processes]
        return self

    def _start(self) -> subprocess.Popen[bytes]:
        env = {**os.environ, **self.env}
        line = command(self.peer, "worker")
        return subprocess.Popen(line, env=env, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def check(self) -> None:
        """Raise if one has ended, with what was printed."""
        if any(process.poll() is not None for process in self.processes):
            raise Failed(f"the worker has ended:\n{self.printed()}")

    def printed(self) -> str:
        self.log.seek(0)
        return self.log.read()[-3000:]

    def __exit__(self, *exception: object) -> None:
        members = [pid for root in self.pids for pid in processes.tree(root)]
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while any(map(processes.runs, members)) and time.monotonic() < deadline:
            for process in self.processes:
                process.poll()
            time.sleep(0.05)
        for pid in filter(processes.runs, members):
            os.kill(pid, signal.SIGKILL)
        for process in self.processes:
            process.wait()
        self.log.close()
