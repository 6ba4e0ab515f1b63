"""The warden's process, from its first line: load the task modules, then be the warden."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from multiprocessing import current_process
from typing import Any

from workers import linux, wire
from workers.catalog import Catalog
from workers.errors import CatalogError
from workers.warden import Warden


def main(descriptor: int, late: list[str]) -> None:
    """descriptor: of the line to the service. late: modules that each worker loads itself."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    linux.set_process_name("quiesce-warden")
    linux.become_subreaper()
    service = socket.socket(fileno=descriptor)
    config: Any = wire.receive(service, peek=True)[0]
    if config is None:
        return
    try:
        catalog, threaded = Catalog.load_shareable(config["modules"], late)
    except CatalogError as error:
        wire.send(service, {"say": "failed", "reason": str(error)})
        return
    if threaded:
        # Its threads cannot be ended, only replaced together with the process they are in.
        os.set_inheritable(descriptor, True)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], threaded])
    wire.receive(service)
    config["late"] = late
    current_process().authkey = bytes.fromhex(config["authkey"])
    gc.collect()
    gc.freeze()
    Warden(service, config, catalog).run()
