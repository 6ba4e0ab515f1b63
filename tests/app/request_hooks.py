"""Hooks for schemathesis: what no schema can say, and waits that nobody has the time for."""

import re
from typing import Any
from uuid import uuid4

import schemathesis

LONGEST_WAIT_S = 0.1
MAX_WAIT_S = 600.0
NDJSON = "application/x-ndjson"
#: Lines for a task; a blank one is no item, and so fits every other.
LINES = {"countdown": '{"identifier": 1, "seconds": 0}\r\n\n{"identifier": 2, "seconds": 0}'}
NO_ITEM = "\n"
KEY = r'[!#-~]{1,255}|"[!#-~]{1,255}"'


@schemathesis.serializer(NDJSON)
def as_it_is(_context: Any, value: Any) -> bytes:
    return str(value).encode("utf-8", "replace")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    if (case.operation.method.upper(), case.operation.path) == ("POST", "/batches"):
        match_query_and_body(case)
    else:
        shorten_wait(case)


def match_query_and_body(case: Any) -> None:
    """All of a batch in JSON is in its body. Beside lines, the query has at least the task, and each
    label once; the lines are its items: to a schema they are any text. A key is of one request only.
    """
    headers = case.headers or {}
    if re.fullmatch(KEY, str(headers.get("Idempotency-Key", ""))):
        headers["Idempotency-Key"] = str(uuid4())
    if case.media_type == NDJSON:
        case.query = {"task": "countdown", **(case.query or {})}
        case.body = LINES.get(str(case.query["task"]), NO_ITEM)
        if isinstance(labels := case.query.get("label"), list):
            case.query["label"] = [*{str(one).partition(":")[0]: one for one in labels}.values()]
    else:
        case.query = {}


def shorten_wait(case: Any) -> None:
    """Shorten a valid `wait`; what is wrong with an invalid one stays."""
    try:
        wait_s = float(case.query["wait"])
    except (KeyError, TypeError, ValueError):
        return
    if LONGEST_WAIT_S < wait_s <= MAX_WAIT_S:
        case.query["wait"] = LONGEST_WAIT_S
