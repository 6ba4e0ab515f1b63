"""Settings: where they come from, what they refuse and how they say it."""

import os
from pathlib import Path

import pytest

from app.settings import (
    Settings,
    SettingsInvalid,
    default_data_dir,
    load_settings,
    option,
    usable_cpus,
    variable,
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("QUIESCE_")]:
        monkeypatch.delenv(name)


def test_defaults_are_usable_as_they_are() -> None:
    """The quick start sets nothing."""
    settings = load_settings()

    assert (settings.host, settings.port, settings.tasks) == (
        "127.0.0.1",
        8000,
        ("workers.examples",),
    )
    assert (settings.grace, settings.shutdown_grace, settings.stop_wait) == (None, 10.0, 60.0)
    assert settings.max_body_bytes == 64 * 2**20
    assert 1 <= settings.workers <= (os.cpu_count() or 1)


def test_an_option_wins_over_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is typed now counts more than what was exported once."""
    monkeypatch.setenv("QUIESCE_PORT", "9001")
    monkeypatch.setenv("QUIESCE_STOP_WAIT", "5")

    settings = load_settings({"port": "9002"})

    assert (settings.port, settings.stop_wait) == (9002, 5.0)


def test_units_lists_and_never_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable is a text; people write 64MiB and never."""
    monkeypatch.setenv("QUIESCE_MAX_BODY_BYTES", "2MiB")
    monkeypatch.setenv("QUIESCE_TASKS", "one.tasks, two.tasks,")
    monkeypatch.setenv("QUIESCE_GRACE", "Never")

    settings = load_settings()

    assert settings.max_body_bytes == 2 * 2**20
    assert settings.tasks == ("one.tasks", "two.tasks")
    assert settings.grace is None


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files pass variables on with nothing in them."""
    monkeypatch.setenv("QUIESCE_FILES_ROOT", "")

    assert load_settings().files_root is None


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("port", "99999", "less than or equal to 65535"),
        ("port", "http", "valid integer"),
        ("workers", "0", "greater than or equal to 1"),
        ("tasks", " , ", "at least 1 item"),
        ("grace", "-1", "greater than or equal to 0"),
        ("grace", "inf", "finite number"),
        ("shutdown_grace", "nan", "finite number"),
        ("stop_wait", "601", "less than or equal to 600"),
        ("max_body_bytes", "0", "greater than 0"),
        ("max_body_bytes", "many", "byte"),
        ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("retention", "5weeks", "90m, 12h, 30d"),
    ],
)
def test_a_bad_value_is_named_by_variable_and_option(
    monkeypatch: pytest.MonkeyPatch, field: str, value: str, words: str
) -> None:
    """Whoever reads the message must find what to change."""
    monkeypatch.setenv(variable(field), value)

    with pytest.raises(SettingsInvalid) as caught:
        load_settings()

    (message,) = caught.value.messages
    assert message.startswith(f"{variable(field)} / {option(field)}: ")
    assert words in message
    assert repr(value) in message or value == " , "


def test_every_mistake_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One start per mistake would be a tedious way to learn them."""
    monkeypatch.setenv("QUIESCE_PORT", "-1")
    monkeypatch.setenv("QUIESCE_WORKERS", "none")
    monkeypatch.setenv("QUIESCE_PROT", "1")

    with pytest.raises(SettingsInvalid) as caught:
        load_settings()

    text = str(caught.value)
    assert len(caught.value.messages) == 3
    assert "QUIESCE_PROT is not a setting of this service; did you mean QUIESCE_PORT?" in text


def test_an_unknown_variable_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt QUIESCE_GRACE would silently mean: never kill."""
    monkeypatch.setenv("QUIESCE_GRACES", "5")

    with pytest.raises(SettingsInvalid, match=r"did you mean QUIESCE_GRACE\?"):
        load_settings()


def test_settings_are_checked_against_each_other(tmp_path: Path) -> None:
    """Each value may be fine and the whole still make no sense."""
    with pytest.raises(SettingsInvalid, match=r"QUIESCE_MAX_ITEM_BYTES.*QUIESCE_MAX_BODY_BYTES"):
        load_settings({"max_item_bytes": "2MiB", "max_body_bytes": "1MiB"})
    with pytest.raises(SettingsInvalid, match=r"QUIESCE_FILES_ROOT / --files-root.*not a folder"):
        load_settings({"files_root": tmp_path / "missing"})
    (tmp_path / "file").touch()
    with pytest.raises(SettingsInvalid, match=r"QUIESCE_DATA_DIR / --data-dir.*not a folder"):
        load_settings({"data_dir": tmp_path / "file"})


def test_a_database_is_a_file_or_on_a_postgresql_server() -> None:
    """What else there is would be found out in the middle of a start."""
    for url in ("sqlite:////data/quiesce.db", "postgresql://quiesce@db.example/quiesce"):
        assert load_settings({"database": url}).database == url

    assert load_settings().database is None
    with pytest.raises(SettingsInvalid, match=r"/ --database: should begin with sqlite:///"):
        load_settings({"database": "/data/quiesce.db"})


def test_a_password_in_the_databases_url_is_never_shown() -> None:
    """Messages end up in logs, which more people read than may know a password."""
    with pytest.raises(SettingsInvalid) as caught:
        load_settings({"database": "mysql://quiesce:hunter2@db.example/quiesce"})
    settings = load_settings({"database": "postgresql://quiesce:hunter2@db.example/quiesce"})

    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(settings)


def test_every_setting_says_what_it_is_for() -> None:
    """The help and the README are made of these."""
    assert all(len(field.description or "") > 20 for field in Settings.model_fields.values())


def test_the_data_folder_follows_the_xdg_specification(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A relative path in the variable is to be ignored, says the specification."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / "quiesce"

    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_data_dir() == Path.home() / ".local/state/quiesce"


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_control_groups_quota_caps_the_cpus(
    tmp_path: Path, files: dict[str, str], cpus: int | None
) -> None:
    """64 workers in a container with one CPU would only get in each other's way."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    assert usable_cpus(tmp_path) == (cpus or len(os.sched_getaffinity(0)))
