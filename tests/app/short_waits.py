"""Hooks for schemathesis: nobody waits ten minutes for a batch that a generator made up."""

from typing import Any

import schemathesis

LONGEST_WAIT_S = 0.1
MAX_WAIT_S = 600.0


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Shorten a valid `wait`; what is wrong with an invalid one stays."""
    try:
        wait_s = float(case.query["wait"])
    except (KeyError, TypeError, ValueError):
        return
    if LONGEST_WAIT_S < wait_s <= MAX_WAIT_S:
        case.query["wait"] = LONGEST_WAIT_S
