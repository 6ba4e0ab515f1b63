"""A task module that starts a thread when it is imported."""

from __future__ import annotations

import threading

from workers import task

_ended = threading.Event()
_helper = threading.Thread(target=_ended.wait, daemon=True)
_helper.start()


@task
def count_module_threads() -> int:
    """How many of the module's threads are alive here."""
    return int(_helper.is_alive())
