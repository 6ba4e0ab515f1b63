"""The errors this service raises on purpose, one class per decision a client can make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Literal, NamedTuple

Place = Literal["body", "query", "path", "header"]


class QuiesceError(Exception):
    """Base of everything `app` raises on purpose; its text is written for the client."""


class FieldError(NamedTuple):
    """One mistake in a request.

    pointer  where: a JSON pointer (`/items/3/seconds`) in the body, a parameter's name elsewhere
    """

    pointer: str
    message: str
    where: Place = "body"


class BatchNotFound(QuiesceError):
    """No batch has this id: it never existed, or its record was dropped."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"there is no batch {batch_id!r}")
        self.batch_id = batch_id


class TaskRecordNotFound(QuiesceError):
    """The batch exists, but has no task at this index."""

    def __init__(self, batch_id: str, index: int) -> None:
        super().__init__(f"batch {batch_id!r} has no task {index}")
        self.batch_id, self.index = batch_id, index


class TaskNotFound(QuiesceError):
    """The catalog has no task of this name, and the name was part of the URL."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name, self.known = name, list(known)
        super().__init__(_unknown(name, self.known))


class UnknownTask(QuiesceError):
    """A new batch names a task that the catalog does not have."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name, self.known = name, list(known)
        super().__init__(_unknown(name, self.known))


class RequestInvalid(QuiesceError):
    """The request is well-formed but wrong; `errors` names each mistake.

    is_complete  False if there may be more mistakes than are named
    """

    def __init__(self, errors: Sequence[FieldError], *, is_complete: bool = True) -> None:
        named = "one mistake is" if len(errors) == 1 else f"{len(errors)} mistakes are"
        rest = "" if is_complete else ", and there may be more"
        super().__init__(f"nothing was done: {named} named in `errors`{rest}")
        self.errors, self.is_complete = list(errors), is_complete


class IdempotencyKeyReused(QuiesceError):
    """Another request was sent with this key before."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key!r} was used for another request: take a new one")


class IdempotencyKeyInUse(QuiesceError):
    """The first request with this key has not been answered yet."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the first request with the key {key!r} is still being read")
        self.retry_after_s = 1


class BatchActive(QuiesceError):
    """The batch has not ended, so there is nothing to resume yet."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"batch {batch_id!r} has not ended: wait for its end, or stop it first")
        self.batch_id = batch_id


class TaskGone(QuiesceError):
    """The batch cannot go on: the service does not have its task now."""

    def __init__(self, batch_id: str, name: str) -> None:
        super().__init__(
            f"batch {batch_id!r} cannot go on: its task {name!r} is in none of the modules loaded now"
        )
        self.batch_id, self.name = batch_id, name


class NothingToResume(QuiesceError):
    """No task of the batch is in a state that the resume was asked for."""

    def __init__(self, batch_id: str, states: Iterable[str]) -> None:
        super().__init__(f"batch {batch_id!r} has no task that is {' or '.join(states)}")
        self.batch_id = batch_id


class NoFilter(QuiesceError):
    """Stopping many batches needs to be told which."""

    def __init__(self) -> None:
        super().__init__("say which batches to stop: `state=active` stops every one of them")


class CursorInvalid(QuiesceError):
    """A page's cursor was not one of ours."""

    def __init__(self) -> None:
        super().__init__("`cursor` must be the `next` of an earlier page, unchanged")


class BodyTooLarge(QuiesceError):
    """The request's body is longer than this service reads."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"a body may have at most {limit_bytes} bytes; send several batches")
        self.limit_bytes = limit_bytes


class BodyNotJson(QuiesceError):
    """The body is not JSON as RFC 8259 has it; the message says where."""

    def __init__(self, message: str) -> None:
        super().__init__(f"the body is not JSON: {message}")


class NotJsonMediaType(QuiesceError):
    """The body is announced as something else than JSON or lines of JSON, in UTF-8."""

    def __init__(self, announced: str | None) -> None:
        what = f"not {announced!r}" if announced else "and there was no Content-Type"
        super().__init__(
            f"the body must be announced as application/json or application/x-ndjson, {what}"
        )
        self.announced = announced


class BodyEncoded(QuiesceError):
    """The body is announced as compressed."""

    def __init__(self, announced: str) -> None:
        super().__init__(f"the body must be sent as it is, not with Content-Encoding {announced!r}")
        self.announced = announced


class ServiceDraining(QuiesceError):
    """The service is going down and takes no new batches."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("the service is shutting down and takes no new batches")
        self.retry_after_s = retry_after_s


class StoreFull(QuiesceError):
    """There is no room left to keep anything; the message says where."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.retry_after_s = 30


class StoreUnavailable(QuiesceError):
    """The database cannot be used now; the message says which and why."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.retry_after_s = 2


class NotReady(QuiesceError):
    """The service should get no traffic now; each reason is a sentence."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = list(reasons)


class NotAlive(QuiesceError):
    """The service makes no progress and should be started again."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = list(reasons)


def _unknown(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known) or 'none'}"
    return f"there is no task {name!r}; {hint}"
