"""Stopped: what ends a task that was asked to stop."""


class Stopped(BaseException):
    """Raised to end a task that was asked to stop; not an Exception, so a blanket except lets it by."""
