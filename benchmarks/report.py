"""The table at the end, and the same as JSON with every round's figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.measurement import Compared, Row

COLUMNS = ("what", "ours (median)", "peer (median)", "ratio", "target", "met?")
_PLAIN_WIDTH = 240
_MET = {True: Text("yes", style="green"), False: Text("NO", style="bold red"), None: Text("")}


def print_report(machine: Mapping[str, str], rows: Sequence[Row], console: Console) -> None:
    """The machine, the table, the remarks; in a file or a pipe as plain Markdown."""
    width = console.width if console.is_terminal else _PLAIN_WIDTH
    for name, value in machine.items():
        console.print(f"{name + ':':13}{value}", highlight=False, width=width, markup=False)
    style = box.SIMPLE_HEAD if console.is_terminal else box.MARKDOWN
    table = Table(box=style)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("what", "met?") else "right")
    for row in rows:
        table.add_row(*_cells(row), _MET[row.is_met])
    console.print(table, width=width)
    for row in rows:
        if row.remark:
            console.print(f"{row.what}: {row.remark}", highlight=False, markup=False, width=width)


def _cells(row: Row) -> list[str]:
    peer = (
        "" if row.peer_median is None else f"{_amount(row.peer_median, row.unit)}\n{row.peer_name}"
    )
    return [
        row.what,
        _amount(row.our_median, row.unit),
        peer.replace("\n", ", "),
        _ratio(row),
        _target(row),
    ]


def _ratio(row: Row) -> str:
    if row.ratio is None or row.difference is None:
        return ""
    if row.target is not None and row.target.compared is Compared.DIFFERENCE:
        return f"{_number(row.ratio)} x, {row.difference:+.1f} {row.unit}"
    return f"{_number(row.ratio)} x"


def _target(row: Row) -> str:
    if row.target is None:
        return ""
    bound = "at least" if row.target.is_least else "at most"
    if row.target.compared is Compared.RATIO:
        return f"{bound} {row.target.limit:g} x"
    sign = "+" if row.target.compared is Compared.DIFFERENCE else ""
    return f"{bound} {sign}{row.target.limit:,.0f} {row.unit}"


def _amount(figure: float, unit: str) -> str:
    return f"{_number(figure)} {unit}"


def _number(figure: float) -> str:
    if abs(figure) >= 1_000:
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if abs(figure) >= 10 else f"{figure:.2f}"


def as_json(
    machine: Mapping[str, str], rows: Sequence[Row], failed: Sequence[str]
) -> dict[str, Any]:
    """Everything, for whoever compares runs."""
    return {
        "machine": dict(machine),
        "rows": [
            {
                "what": row.what,
                "unit": row.unit,
                "ours": list(row.ours),
                "peer_name": row.peer_name,
                "peer": list(row.peer),
                "our_median": row.our_median,
                "peer_median": row.peer_median,
                "ratio": row.ratio,
                "difference": row.difference,
                "target": _target(row) or None,
                "is_met": row.is_met,
                "remark": row.remark,
            }
            for row in rows
        ],
        "failed": list(failed),
    }
