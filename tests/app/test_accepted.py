"""The answer to a new batch is what any other request for it would have shown at that moment."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.accepted import AcceptedText
from app.clock import Clock
from app.record import Record
from app.rows import NewBatchRow
from app.schemas import BatchOptions
from app.schemas.requests import RetryOptions
from app.views import Views

CLOCK = Clock()
VIEWS = Views(CLOCK)
ACCEPTED = AcceptedText(VIEWS, CLOCK)

#: Whatever can stand in a name or a label, and what a careless template would trip over.
TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["%", "%(id)b", "@id", "@name", "@label", '"', "\\", "\x00", "\u2028", "9876543210"]
)
OPTIONS = st.builds(
    BatchOptions,
    max_parallel=st.none() | st.integers(1, 1_000),
    priority=st.integers(-100, 100),
    timeout=st.none() | st.floats(0.001, 86_400),
    grace=st.none() | st.floats(0, 86_400),
    retries=st.builds(RetryOptions, max_attempts=st.integers(1, 100)),
    fail_fast=st.booleans(),
    on_interruption=st.sampled_from(["resume", "stop"]),
)


@given(
    st.builds(
        NewBatchRow,
        id=st.text("0123456789abcdefghjkmnpqrstvwxyz", min_size=26, max_size=26),
        task=st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}", fullmatch=True),
        total=st.integers(1, 2**32),
        created=st.floats(0, 1e7),
        name=st.none() | TEXTS,
        labels=st.dictionaries(TEXTS, TEXTS, max_size=3),
        options=OPTIONS,
    )
)
def test_it_is_written_as_every_other_view(new: NewBatchRow) -> None:
    """The template is made from the view, so a new member is in both; here every value is as well."""
    assert ACCEPTED.write(new) == VIEWS.batch(Record(new).shown).to_json()
