"""What may be seen at a later look, by a table of moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

State = TypeVar("State")


def reachable(moves: Mapping[State, frozenset[State]]) -> dict[State, set[State]]:
    """From each state, what may be seen at a later look, itself included."""
    found = {state: {state} for state in moves}
    for _ in moves:
        for state, later in found.items():
            found[state] = later.union(*(moves[each] for each in later))
    return found
