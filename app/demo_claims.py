"""What the demonstration claims: each checked, each printed."""

from __future__ import annotations

from rich.console import Console


class Claims:
    """What the demonstration shows, each checked; printed one a line."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.all_true = True

    def check(self, is_true: bool, text: str) -> None:
        """Print the claim with what became of it."""
        self.all_true &= is_true
        mark = "[green]  ok [/]" if is_true else "[bold red]  NO [/]"
        self.console.print(f"{mark} {text}", highlight=False)
