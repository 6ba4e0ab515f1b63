"""The shipped tasks: right results, progress, stops, and no way out of the configured root."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.workers.driver import Driver
from tests.workers.stages import event_of
from workers import Progress, Savepoint, StopEvent, Stopped
from workers.backend import Ending
from workers.examples import (
    BLOCK_BYTES,
    NUMBERS_PER_LOOK,
    ROOT_VARIABLE,
    checksum,
    countdown,
    inside_root,
    is_prime,
    primes,
    relay,
    stubborn,
)
from workers.inbox import LocalFlag
from workers.pool import PoolSettings


@contextmanager
def pool_of_examples(environment: dict[str, str] | None = None) -> Iterator[Driver]:
    """A pool as the service starts it by default."""
    driver = Driver(PoolSettings(2, ("workers.examples",), environment=environment or {}))
    driver.pool.start()
    try:
        yield driver
    finally:
        driver.pool.close(0.0)


def event(*, is_set: bool = False) -> StopEvent:
    """A task's event, outside a worker."""
    flag = LocalFlag()
    if is_set:
        flag.set()
    return event_of(flag)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configured root with one file in it and one beside it."""
    root = tmp_path / "root"
    (root / "below").mkdir(parents=True)
    (root / "below" / "file").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    (tmp_path / "root-twin").mkdir()
    (tmp_path / "root-twin" / "file").write_bytes(b"outside")
    monkeypatch.setenv(ROOT_VARIABLE, str(root))
    return root


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "..",
        "below/../../secret",
        "below/../../root-twin/file",
        "./../secret",
        "no/such/../../../secret",
        "/etc/passwd",
        "//etc/passwd",
        "/proc/self/environ",
        "/",
    ],
)
def test_a_path_out_of_the_root_is_refused_by_name(root: Path, path: str) -> None:
    """Whoever may post a task must not thereby read every file of the machine."""
    with pytest.raises(PermissionError) as caught:
        inside_root(path)

    assert str(caught.value) == f"{path!r} is outside the configured root"


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "..", "/proc/self/root"])
@pytest.mark.parametrize("path", ["link", "below/link", "chain", "link/x", "chain/../file"])
def test_a_symbolic_link_out_of_the_root_is_refused(root: Path, target: str, path: str) -> None:
    """However it is reached: by itself, through another, or as a folder on the way."""
    (root / "link").symlink_to(target)
    (root / "below" / "link").symlink_to(root / "link")
    (root / "chain").symlink_to("below/link")

    with pytest.raises(PermissionError, match="is outside the configured root"):
        inside_root(path)


def test_the_absolute_path_of_a_file_inside_is_no_way_out(root: Path) -> None:
    """It means the same file; what is refused is what lies outside."""
    assert inside_root(str(root / "below" / "file")) == (root / "below" / "file").resolve()


@pytest.mark.parametrize("path", ["below/file", "./below//file", "below/../below/file", "inner"])
def test_a_path_that_stays_inside_is_found(root: Path, path: str) -> None:
    """A link from inside to inside is as good as the file itself."""
    (root / "inner").symlink_to("below/file")

    assert inside_root(path).read_bytes() == b"inside"


def test_a_root_that_is_itself_a_link_is_fine(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Volumes are often mounted that way."""
    (tmp_path / "volume").symlink_to(root)
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path / "volume"))

    assert inside_root("below/file").read_bytes() == b"inside"
    with pytest.raises(PermissionError):
        inside_root("../secret")


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_root_no_file_is_served(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    """Not the working directory by accident; the message names the variable to set."""
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(ROOT_VARIABLE, value)

    with pytest.raises(PermissionError, match=f"no files are served: {ROOT_VARIABLE} is not set"):
        inside_root("pyproject.toml")


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 5])
def test_the_checksum_is_that_of_hashlib(root: Path, size: int) -> None:
    """Whatever the length; progress ends with the whole."""
    content = os.urandom(size)
    (root / "file.bin").write_bytes(content)
    reports: list[bytes] = []
    progress = Progress(reports.append)
    found = checksum("file.bin", stop=event(), progress=progress)
    progress.end()

    digest = hashlib.sha256(content).hexdigest()
    assert found == {"path": "file.bin", "bytes": size, "sha256": digest}
    if size:
        assert json.loads(reports[-1]) == {"done": size, "total": size, "message": None}
        assert json.loads(reports[0])["done"] == min(size, BLOCK_BYTES)


def test_a_stopped_checksum_gives_no_result(root: Path) -> None:
    """Half a checksum is of no use, so it leaves by `Stopped`."""
    with pytest.raises(Stopped):
        checksum("below/file", stop=event(is_set=True), progress=Progress(lambda _: None))


@pytest.mark.parametrize(
    ("first", "last", "count"),
    [
        (0, 0, 0),
        (0, 1, 0),
        (0, 2, 1),
        (2, 2, 1),
        (0, 100, 25),
        (0, 1_000, 168),
        (0, 10_000, 1_229),
        (0, 100_000, 9_592),
        (97, 97, 1),
        (98, 100, 0),
        (90, 97, 1),
        (10, 5, 0),
        (999_999_999_989, 999_999_999_989, 1),
    ],
)
def test_primes_are_counted_right_ends_included(first: int, last: int, count: int) -> None:
    """Against the known values of the prime-counting function (OEIS A006880) and single primes."""
    assert primes(first, last, stop=event()) == count


def test_squares_and_products_of_primes_are_not_prime() -> None:
    """Where a trial division that ends one step too early goes wrong."""
    small = [number for number in range(50) if is_prime(number)]

    assert small == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47]
    assert not any(is_prime(one * other) for one in small for other in small)
    assert not is_prime(-7)


def test_stopped_primes_give_the_count_so_far() -> None:
    """A partial result is kept; it looks at the event every thousand numbers."""
    assert primes(0, 10**12, stop=event(is_set=True)) == 168
    assert primes(NUMBERS_PER_LOOK, 10**12, stop=event(is_set=True)) == 0


def test_countdown_says_how_it_ended() -> None:
    """The textbook task: done, or stopped in one of its seconds."""
    assert countdown(7, 0, stop=event()) == "7: done"
    assert countdown(7, 10, stop=event(is_set=True)) == "7: stopped after 1 s"


def test_a_relay_goes_on_from_its_savepoint() -> None:
    """It is what task authors copy, and what the demonstration shows."""
    savepoint = Savepoint()
    savepoint.save([{"leg": 1, "pid": 1}, {"leg": 2, "pid": 2}])
    stopped = relay(legs=4, seconds=0, stop=event(is_set=True), savepoint=savepoint)
    run = relay(legs=4, seconds=0, stop=event(), savepoint=savepoint)

    assert stopped == [{"leg": 1, "pid": 1}, {"leg": 2, "pid": 2}]
    assert run == stopped + [{"leg": leg, "pid": os.getpid()} for leg in (3, 4)]
    assert savepoint.load() == run


def test_stubborn_ends_by_itself_at_last() -> None:
    """Only what it was given, then."""
    assert stubborn(0) == "finished, whatever was asked"


def test_the_examples_in_a_real_pool(root: Path, tmp_path: Path) -> None:
    """As a user meets them: results, refusals, stops, and a grace that ends the stubborn one."""
    with pool_of_examples({ROOT_VARIABLE: str(root)}) as pool:
        items: list[dict[str, Any]] = [{"path": "below/file"}, {"path": "../secret"}, {"path": ""}]
        sums = pool.submit("checksum", items).wait()

        assert sums.value()["sha256"] == hashlib.sha256(b"inside").hexdigest()
        assert sums.progress[-1] == {"done": 6, "total": 6, "message": None}
        assert sums.error(1)["type"] == "PermissionError"
        assert sums.error(1)["message"] == "'../secret' is outside the configured root"
        assert sums.error(2)["type"] == "ParameterError"
        assert pool.run("primes", first=0, last=1000).value() == 168
        assert pool.run("countdown", identifier=3, seconds=0).value() == "3: done"

        counting = pool.submit("countdown", [{"identifier": 1, "seconds": 3600}], max_parallel=1)
        stubborn_one = pool.submit("stubborn", [{"seconds": 3600}], max_parallel=1)
        pool.running(counting)
        pool.running(stubborn_one)
        assert pool.stop(counting).value() == "1: stopped after 1 s"
        assert counting.outcomes[0].noticed
        assert pool.stop(stubborn_one, grace_s=0.05).endings() == [Ending.KILLED]
        partial_count = pool.submit("primes", [{"first": 0, "last": 10**12}])
        pool.running(partial_count)
        assert pool.stop(partial_count).value() > 0
        assert partial_count.outcomes[0].noticed


def test_a_pool_without_a_root_serves_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task fails with the reason; the service starts all the same."""
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    with pool_of_examples() as pool:
        error = pool.run("checksum", path="pyproject.toml").error()

        assert error["type"] == "PermissionError"
        assert error["message"] == f"no files are served: {ROOT_VARIABLE} is not set"
