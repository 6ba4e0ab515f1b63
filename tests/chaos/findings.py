"""What the chaos found: broken promises by kind, which must be none, and how harsh it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import sqrt


class Broken(StrEnum):
    """The ways in which a promise can be broken."""

    LOST = "lost"  # ran or should have run, and nobody says what became of it
    DUPLICATED = "duplicated"  # ran more often, or ended more often, than it may
    RAN_AFTER_STOP = "ran after stop"  # wrote a line after it was said that nothing runs
    WRONGLY_BLAMED = (
        "wrongly blamed"  # what is said of it is not what it did or what was done to it
    )
    HUNG = "hung"  # a wait that went past its limit
    ORPHANED = "orphaned"  # a process or folder that was left behind
    CHANGED = "changed"  # what was told once is told otherwise now


EXAMPLES_SHOWN = 12


@dataclass
class Findings:
    """What one part of the programme found.

    harshness  what was done to the product, by name; a run without it proves nothing
    """

    part: str
    tasks: int = 0
    took_s: float = 0.0
    counts: Counter[Broken] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    harshness: Counter[str] = field(default_factory=Counter)

    def add(self, kind: Broken, example: str) -> None:
        """Note one violation."""
        self.counts[kind] += 1
        self.examples.append(f"{self.part}: {kind}: {example}")

    def expect(self, name: str, least: float, *, by_chance: bool = False) -> None:
        """Note a part that was too gentle to prove anything.

        by_chance  nobody decides how often it happens; so a short run may fall behind by three
                   standard deviations, and only a long one is a proof
        """
        if by_chance:
            least = max(0.0, least - 3 * sqrt(least))
        if self.harshness[name] < least:
            self.examples.append(
                f"{self.part}: too gentle: {name} is {self.harshness[name]}, not {least:.0f}"
            )

    def take_in(self, other: Findings) -> None:
        """Add what somebody else has found in the same part."""
        self.counts += other.counts
        self.examples += [f"{self.part}: {example}" for example in other.examples]
        self.harshness += other.harshness

    @property
    def is_clean(self) -> bool:
        """Whether no promise was broken, and it was harsh enough to tell."""
        return not self.counts and not self.examples

    def complaint(self) -> str:
        """What was found, the first of it in full."""
        return "\n".join([f"{dict(self.counts)}", *self.examples[:EXAMPLES_SHOWN]])


def table(parts: Sequence[Findings]) -> str:
    """One line for each part, one column for each way to break a promise; below it the harshness."""
    head = ["part", "tasks", *Broken, "seconds"]
    rows = [
        [
            found.part,
            f"{found.tasks:,}",
            *(f"{found.counts[kind]:,}" for kind in Broken),
            f"{found.took_s:.0f}",
        ]
        for found in parts
    ]
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in [head, *rows]
    ]
    lines.insert(1, "-" * len(lines[0]))
    for found in parts:
        done = ", ".join(f"{count:,} {name}" for name, count in found.harshness.items())
        lines.append(f"\n{found.part}: {done}")
        lines += [f"  {example}" for example in found.examples[:EXAMPLES_SHOWN]]
    return "\n".join(lines)
