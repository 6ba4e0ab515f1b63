"""Tasks that raise what nobody should, each named for what."""

from __future__ import annotations

from typing import Any

from workers import Stopped, task


@task
def raise_value_error(text: str) -> None:
    raise ValueError(text)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    def __repr__(self) -> str:
        raise RuntimeError("nor this")

    def __reduce__(self) -> Any:
        raise RuntimeError("nor a pickle")


@task
def raise_unprintable() -> None:
    raise Unprintable


class HostileKind(type):
    """A class of which nothing can be asked."""

    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError(name)

    def __eq__(cls, other: object) -> bool:
        raise RuntimeError("equality")

    def __hash__(cls) -> int:
        raise RuntimeError("hash")

    def __repr__(cls) -> str:
        raise RuntimeError("repr")

    def __instancecheck__(cls, instance: object) -> bool:
        raise RuntimeError("instance")


class HostileThroughout(Exception, metaclass=HostileKind):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __str__(self) -> str:
        raise SystemExit(7)

    __hash__ = None  # type: ignore[assignment]  # the vice itself
    __class__ = property(lambda _: 1 / 0)


@task
def raise_hostile_throughout() -> None:
    raise HostileThroughout("nothing")


class SpeaksOnce(Exception):
    """It says something, but only once."""

    def __init__(self) -> None:
        self.said = 0

    def __str__(self) -> str:
        self.said += 1
        if self.said > 1:
            raise MemoryError
        return "once"


@task
def raise_what_speaks_once() -> None:
    raise SpeaksOnce


@task
def raise_a_chain(links: int, caused: bool) -> None:
    error: Exception = ValueError("link 0")
    for number in range(1, links):
        try:
            try:
                raise error
            except ValueError as last:
                if caused:
                    raise ValueError(f"link {number}") from last
                raise ValueError(f"link {number}")  # noqa: B904  # the other kind of chain
        except ValueError as last:
            error = last
    raise error


@task
def raise_a_chain_that_bites_its_tail() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


@task
def raise_a_wide_group(width: int) -> None:
    raise ExceptionGroup("many", [ValueError(f"number {number}") for number in range(width)])


@task
def raise_a_deep_group(depth: int) -> None:
    error: Exception = ValueError("core")
    for level in range(depth):
        error = ExceptionGroup(f"shell {level}", [error])
    raise error


@task
def raise_a_bushy_group(depth: int) -> None:
    """Few objects, but twice as many ways to get to them with every level."""
    error: Exception = ValueError("core")
    for level in range(depth):
        error = ExceptionGroup(f"shell {level}", [error, error])
    raise error


@task
def raise_a_long_message(count: int) -> None:
    raise ValueError("x" * count)


@task
def raise_with_huge_notes(count: int) -> None:
    error = ValueError("see the notes")
    error.add_note("x" * count)
    error.__notes__.append(3)  # type: ignore[arg-type]  # the vice itself
    raise error


@task
def raise_from_a_long_name() -> None:
    raise type("N" * 100_000, (Exception,), {})("from a long name")


@task
def raise_from_a_name_that_is_no_name() -> None:
    raise type('a "name"\n', (Exception,), {})("\udcff")


@task
def raise_stopped_unasked() -> None:
    raise Stopped


@task
def raise_base_exception() -> None:
    raise BaseException("neither one nor the other")


@task
def raise_generator_exit() -> None:
    raise GeneratorExit
