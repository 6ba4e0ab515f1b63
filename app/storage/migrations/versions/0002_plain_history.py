"""A batch whose row tells all of its history has no row of that: older programs would show none."""

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Nothing changes but what is written from now on."""
