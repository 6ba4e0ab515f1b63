"""The command line: `serve` and `demo`, with an option for every setting."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ByteSize
from pydantic.fields import FieldInfo

from app import __version__
from app.settings import Settings, SettingsInvalid, load_settings, option, variable

EXIT_START_FAILED = 1
EXIT_BAD_SETTINGS = 2

_METAVARS = {
    "host": "ADDRESS", "port": "NUMBER", "tasks": "MODULE,...", "data_dir": "FOLDER",
    "grace": "SECONDS|never", "shutdown_grace": "SECONDS", "stop_wait": "SECONDS",
    "max_worker_rss": "SIZE", "files_root": "FOLDER", "crawl_hosts": "HOST,...",
    "database": "URL", "retention": "SECONDS|30d", "log_level": "LEVEL",
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; gives the exit code: 0 fine, 1 the start failed, 2 something is misspelt."""
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    command = given.pop("command", None)
    if command == "serve":
        return _serve({name: value for name, value in given.items() if value is not None})
    if command == "demo":
        return _demo()
    parser.print_help()
    return EXIT_BAD_SETTINGS


def _serve(options: dict[str, Any]) -> int:
    # Task modules are looked for where the service was started, as `python -m` does it.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        settings = load_settings(options)
    except SettingsInvalid as error:
        return _fail(EXIT_BAD_SETTINGS, error.messages)
    # Only now: the help and a misspelt setting need no web framework.
    from app.datadir import DataDirUnusable
    from app.errors import StoreFull, StoreUnavailable
    from app.main import create_app
    from app.server import PortUnusable, serve, set_up_logging
    from app.storage.database import DatabaseUnusable
    from workers.errors import CatalogError, PoolStartError

    set_up_logging(settings.log_level)
    try:
        app = create_app(settings)
    except CatalogError as error:
        return _fail(EXIT_BAD_SETTINGS, [f"{variable('tasks')} / {option('tasks')}: {error}"])
    try:
        serve(app, settings)
    except (
        PortUnusable,
        DataDirUnusable,
        DatabaseUnusable,
        StoreFull,
        StoreUnavailable,
        PoolStartError,
    ) as error:
        return _fail(EXIT_START_FAILED, [str(error)])
    return 0


def _demo() -> int:
    from app.demo import run

    return run()


def _fail(code: int, messages: Sequence[str]) -> int:
    for message in messages:
        print(f"quiesce: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quiesce",
        description="Run batches of Python tasks on a long-lived process pool; stop any one safely.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"quiesce {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    serve = commands.add_parser(
        "serve",
        help="run the service until SIGTERM or Ctrl-C",
        description="Run the service until SIGTERM or Ctrl-C. An option wins over its variable.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, field in Settings.model_fields.items():
        serve.add_argument(
            option(name),
            dest=name,
            metavar=_METAVARS.get(name, "SIZE" if name.endswith("_bytes") else "NUMBER"),
            help=_help(name, field),
        )
    commands.add_parser(
        "demo", help="start a service, stop a batch safely, kill the service, go on"
    )
    return parser


def _help(name: str, field: FieldInfo) -> str:
    text = field.description or ""
    default = field.default
    if field.default_factory is None and default is not None:
        shown = _shown(default)
        text += f" Default: {shown}."
    return f"{text} [{variable(name)}]".replace("%", "%%")


def _shown(default: object) -> object:
    if isinstance(default, tuple):
        return ",".join(default)
    return default.human_readable().replace(".0", "") if isinstance(default, ByteSize) else default
