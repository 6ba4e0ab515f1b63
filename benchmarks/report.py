"""The table at the end, and the same as JSON with every round's figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.measurement import Compared, Row

COLUMNS = ("what", "ours (median)", "peer (median)", "ratio", "target", "met?")
#: Wide enough that no line of the table is ever broken in a file.
_PLAIN_WIDTH = 200
_MET = {True: Text("yes", style="green"), False: Text("NO", style="bold red"), None: Text("")}


def print_report(machine: Mapping[str, str], rows: Sequence[Row], out: TextIO) -> None:
    """The machine, the table, the remarks; anywhere but on a terminal as plain Markdown."""
    is_plain = not out.isatty()
    console = Console(file=out, width=_PLAIN_WIDTH if is_plain else None, highlight=False)
    print(file=out)
    for name, value in machine.items():
        print(f"{name + ':':13}{value}", file=out)
    print(file=out)
    table = Table(box=box.MARKDOWN if is_plain else box.SIMPLE_HEAD)
    for name in COLUMNS:
        is_text = name in ("what", "met?")
        table.add_column(name, justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        table.add_row(*_cells(row, " " if is_plain else "\n"), _MET[row.is_met])
    with console.capture() as drawn:
        console.print(table)
    lines = [line.rstrip() for line in drawn.get().splitlines()]
    print(*filter(None, lines), "", sep="\n", file=out)
    for row in rows:
        if row.remark:
            print(f"{row.what}: {row.remark}", file=out)


def _cells(row: Row, gap: str) -> list[str]:
    peer = ""
    if row.peer_median is not None:
        peer = f"{_amount(row.peer_median, row.unit)}{gap}({row.peer_name})"
    return [row.what, _amount(row.our_median, row.unit), peer, _ratio(row), _target(row)]


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
    if abs(figure) >= 10:
        return f"{figure:.1f}"
    return f"{figure:.2f}" if abs(figure) >= 0.1 or not figure else f"{figure:.2g}"


def as_json(
    machine: Mapping[str, str], rows: Sequence[Row], failed: Sequence[str]
) -> dict[str, Any]:
    """Everything, for whoever compares runs."""
    return {
        "machine": dict(machine),
        "rows": [_row_as_json(row) for row in rows],
        "failed": list(failed),
    }


def _row_as_json(row: Row) -> dict[str, Any]:
    return {
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
