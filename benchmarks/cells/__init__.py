"""The cells of the benchmark: what is measured, each by its name."""

from .arguments import Arguments
from .base import BEST, Cell, Column
from .coroutines import Async, Sleep
from .crowded import Full, Scheduled, Snapshot, Waiting
from .drain import Drain
from .enqueue import Enqueue, Writers
from .failing import Failing
from .idle import Idle
from .layers import Layers
from .limits import Limits, Work
from .memory import Growth, Memory
from .orm import Orm, Select
from .pickup import Pickup
from .processes import Processes

__all__ = ["ALL", "BEST", "Cell", "Column"]

ALL: dict[str, Cell] = {
    cell.name: cell
    for cell in (
        Drain(),
        Enqueue(),
        Pickup(),
        Orm(),
        Select(),
        Failing(),
        Idle(),
        Full(),
        Snapshot(),
        Scheduled(),
        Waiting(),
        Processes(),
        Async(),
        Sleep(),
        Arguments(),
        Layers(),
        Limits(),
        Work(),
        Memory(),
        Growth(),
        Writers(),
    )
}
