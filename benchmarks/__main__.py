"""`python -m benchmarks`: measure everything, or what was asked for, and print one table."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks import latency, looks, memory, pool, restarts, stops, throughput
from benchmarks.machine import describe_machine
from benchmarks.measurement import Measurement, Row, Size
from benchmarks.report import as_json, print_report

MEASUREMENTS = (
    Measurement("stop-latency", stops.measure_stop_latency, Size(10, 40), Size(10, 10)),
    Measurement(
        "stop-million", stops.measure_stop_of_a_million, Size(1_000_000, 7), Size(50_000, 3)
    ),
    Measurement("looks", looks.measure_looks, Size(300_000, 7), Size(20_000, 3)),
    Measurement("single-leases", pool.measure_single_leases, Size(20_000, 7), Size(3_000, 3)),
    Measurement("one-task-batches", pool.measure_one_task_batches, Size(20_000, 7), Size(3_000, 3)),
    Measurement("one-batch", pool.measure_one_batch, Size(200_000, 5), Size(20_000, 3)),
    Measurement("end-to-end", throughput.measure_end_to_end, Size(100_000, 7), Size(20_000, 3)),
    Measurement("unfinished", restarts.measure_unfinished, Size(1_000_000, 5), Size(50_000, 1)),
    Measurement("finished", restarts.measure_finished, Size(1_000_000, 5), Size(20_000, 1)),
    Measurement("requests", throughput.measure_requests, Size(10_000, 7), Size(1_000, 3)),
    Measurement("latency", latency.measure_latency, Size(1_000_000, 3), Size(50_000, 1)),
    Measurement("memory", memory.measure_memory, Size(1_000_000, 3), Size(50_000, 1)),
)
EXIT_FAILED = 1
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM


def main(
    words: Sequence[str] | None = None, measurements: Sequence[Measurement] = MEASUREMENTS
) -> int:
    """Measure and report; 1 if a measurement failed. A missed target is a result, not a failure."""
    chosen = _parser(measurements).parse_args(words)
    machine = describe_machine()
    rows: list[Row] = []
    failed: list[str] = []
    for measurement in measurements:
        if not chosen.only or measurement.name in chosen.only:
            size = measurement.quick if chosen.quick else measurement.full
            _tell(
                f"measuring {measurement.name}: rounds of {size.amount:,}, {size.rounds} counted ..."
            )
            try:
                rows += measurement.run(size)
            except Exception:  # noqa: BLE001 - the others can still be measured
                traceback.print_exc()
                failed.append(measurement.name)
    print_report(machine, rows, sys.stdout)
    for name in failed:
        _tell(f"{name} FAILED; its error is above")
    if chosen.json is not None:
        text = json.dumps(as_json(machine, rows, failed), indent=2)
        chosen.json.write_text(text + "\n", encoding="utf-8")
    return EXIT_FAILED if failed else 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser(measurements: Sequence[Measurement]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the service and its pool against their peers, in turns, in one run.",
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument(
        "--only",
        action="append",
        choices=[measurement.name for measurement in measurements],
        help="measure this alone; may be repeated",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures")
    return parser


if __name__ == "__main__":
    # So that whatever was started is ended as after Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None
