import time
from contextlib import nullcontext

from benchmarks import adapters, processes
from benchmarks.databases.proxy import Proxy
from benchmarks.drains import Figures
from benchmarks.entrants import Entrant, Stage

from .base import Cell, Column

SETTLING = 10  # seconds after its first job until each of its threads has done its first round


class Idle(Cell):
    name = "idle"
    sentence = "what a worker without jobs costs: statements per second, connections that it opens, its CPU time"
    columns = (
        Column("statements/s", "{:.2f}", less=True),
        Column("new connections", "{:.0f}", less=True),
        Column("CPU", "{:.2%}", less=True),
    )

    def measure(self, entrant: Entrant) -> Figures:
        with entrant.stage() as stage:
            has_server = stage.database.address() is not None
            with Proxy(stage.database) if has_server else nullcontext() as proxy:
                return self._watch(stage, proxy)

    def _watch(self, stage: Stage, proxy: Proxy | None) -> Figures:
        """Count for a while what a worker does that has run one job and gets no other."""
        seconds = stage.entrant.options.seconds
        with stage.workers(url=proxy and proxy.url) as workers:
            adapters.call(stage.peer, "latency", 2, env=stage.env)
            time.sleep(SETTLING)
            cpu, counted = processes.cpu_seconds(*workers.pids), self._counted(proxy)
            time.sleep(seconds)
            found = {"CPU": (processes.cpu_seconds(*workers.pids) - cpu) / seconds}
            workers.check()
            if proxy and counted:
                statements, connections = self._counted(proxy)
                found["statements/s"] = (statements - counted[0]) / seconds
                found["new connections"] = connections - counted[1]
        return found

    @staticmethod
    def _counted(proxy: Proxy | None) -> tuple[int, int]:
        return (proxy.statements, proxy.connections) if proxy else (0, 0)
