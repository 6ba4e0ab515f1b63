"""The first lines of a warden's process: learn where the modules are, then be the warden.

Run as a script, so that `ps` shows something readable; nothing of this project is imported before
the service's own search path is in place.
"""

from __future__ import annotations

import json
import socket
import sys

MAX_MESSAGE_BYTES = 1 << 17  # as in `workers.wire`, which cannot be imported yet


def boot() -> None:
    """argv: the descriptor of the line to the service, then the modules to be loaded late."""
    descriptor = int(sys.argv[1])
    service = socket.socket(fileno=descriptor)
    configuration = service.recv(MAX_MESSAGE_BYTES, socket.MSG_PEEK)
    service.detach()
    if configuration:
        sys.path[:] = json.loads(configuration)["path"]
        from workers.wardenmain import main

        main(descriptor, sys.argv[2:])


if __name__ == "__main__":
    boot()
