"""Views and their tags, made without a service."""

from time import monotonic

from app.clock import Clock
from app.glance import Glance
from app.record import Record
from app.views import Views, fingerprint
from tests.app.records import ASKED, new, published, runs
from workers.backend import RunningTask


def test_a_tag_changes_when_the_receipt_tells_of_a_critical_section() -> None:
    """A strong tag that stays while the bytes change hides news from whoever asks for news only."""
    record, views = Record(new("a")), Views(Clock())
    record.begin(1.0)
    published(record)

    def seen(page: RunningTask) -> tuple[bytes, str]:
        row = record.shown.with_running(1)
        glance = Glance(row, record, [page])
        stop = None if row.stop is None else views.stop(glance, row.stop, [])
        return views.batch(row, stop).to_json(), fingerprint(glance)

    inside = runs(0)._replace(shielded_until=monotonic() + 9)
    before = seen(runs(0))
    assert seen(inside) == before
    record.request_stop(monotonic(), ASKED, None)
    published(record)
    text, tag = seen(runs(0))
    assert seen(inside)[0] != text
    assert seen(inside)[1] != tag
