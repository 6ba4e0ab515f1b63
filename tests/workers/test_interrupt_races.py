"""Stops that meet a task at every point of its way into a block, through it and out of it."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path
from time import perf_counter

from workers.interrupts import INTERRUPT
from workers.messages import Command, pack_control

ROUNDS = 3_000
SEED = 20261122
#: About as long as a few rounds of a tight loop around a block.
LONGEST_S = 0.000_2
ROOT = Path(__file__).parents[2]


def test_a_stop_is_never_raised_outside_a_block() -> None:
    """An exception out of a signal handler may strike anywhere; here it must not.

    Whatever comes behind the block is whole, and every stop gets through.
    """
    dice = random.Random(SEED)
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.workers.interrupt_races", str(theirs.fileno()), str(ROUNDS)],
        pass_fds=[theirs.fileno()],
        stdout=subprocess.PIPE,
        bufsize=0,
        cwd=ROOT,
    )
    theirs.close()
    assert process.stdout is not None
    with process, ours:
        for number in range(1, ROUNDS + 1):
            assert process.stdout.read(1) == b"."
            strike_about(process.pid, dice)
            ours.sendall(pack_control(Command.STOP, number))
            strike_about(process.pid, dice)
        wrong = json.loads(process.stdout.read())

    assert wrong == []


def strike_about(pid: int, dice: random.Random) -> None:
    """Send the signal as well, at instants that its interpreter's lock has no say in."""
    for _ in range(dice.randrange(4)):
        end = perf_counter() + dice.random() * LONGEST_S
        while perf_counter() < end:
            pass
        os.kill(pid, INTERRUPT)
