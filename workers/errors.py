"""The errors this package raises on purpose, one class per decision a caller can make."""


class WorkersError(Exception):
    """Base of everything `workers` raises on purpose."""


class CatalogError(WorkersError):
    """The task modules cannot be used as they are; the message names module, task and reason."""


class ParametersInvalid(WorkersError):
    """An item does not fit its task's parameters.

    problems  one entry per mistake: `(location, message)`, the location a tuple of keys and indexes
    """

    def __init__(self, problems: list[tuple[tuple[str | int, ...], str]]) -> None:
        super().__init__("; ".join(message for _, message in problems))
        self.problems = problems


class NotJson(WorkersError):
    """A value cannot be written as JSON (RFC 8259: no NaN, no Infinity)."""


class ResultNotJson(WorkersError):
    """What a task returned cannot be written as JSON (RFC 8259: no NaN, no Infinity)."""


class ResultTooLarge(WorkersError):
    """A result is longer than the pool carries."""


class BrokenFrame(WorkersError):
    """The bytes on a pipe are not what this package writes; whoever wrote them cannot be trusted."""


class PoolClosed(WorkersError):
    """The pool takes no new batch: it is shutting down, or was never started."""


class PoolStartError(WorkersError):
    """The pool's processes did not come up; the message says which one and why."""


class ManagerUnavailable(WorkersError):
    """The Manager that hosts the events did not answer in time."""


class TaskFailed(WorkersError):
    """`AsyncResult.get()` was asked for results, but a task has none.

    index   the task's position in the batch
    error   `{"type", "message", "traceback"?, ...}` as the worker wrote it
    """

    def __init__(self, index: int, error: dict[str, object]) -> None:
        super().__init__(f"task {index}: {error.get('type')}: {error.get('message')}")
        self.index, self.error = index, error


class NotInTask(WorkersError, LookupError):
    """`current()` was called where no task runs."""
