"""Processes, pool, events and tasks: everything of Quiesce that is not HTTP."""

from workers.context import Progress
from workers.savepoint import Savepoint
from workers.stop import StopEvent, Stopped, current
from workers.tasks import task

__all__ = ["Progress", "Savepoint", "StopEvent", "Stopped", "current", "task"]
