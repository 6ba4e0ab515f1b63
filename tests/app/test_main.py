"""Starting the service: in a test client, under uvicorn, from the command line, and not at all."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from fastapi import FastAPI

from app.datadir import DataDirUnusable, lock_data_dir
from app.main import create_app
from app.settings import load_settings
from tests.app.serving import eventually, serving
from tests.service_process import ROOT

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

COMMAND_LIMIT_S = 60


def in_test_client(app: FastAPI) -> "TestClient":
    """FastAPI's own test client, which warns that it would rather have another HTTP library."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        from fastapi.testclient import TestClient
    return TestClient(app)


def test_it_runs_in_a_test_client_several_times_in_one_process(tmp_path: Path) -> None:
    """How its users test against it; a lifespan leaves nothing behind for the next one but batches."""
    app = create_app(load_settings({"data_dir": tmp_path, "workers": 1}))
    for count in (1, 2):
        with in_test_client(app) as client:
            body = {"task": "countdown", "items": [{"identifier": 1}]}
            batch = client.post("/batches", json=body).json()
            entry = app.state.service.registry[batch["id"]]
            assert not entry.result.ready()
            assert not entry.event.is_set()

            receipt = client.delete(batch["links"]["self"]).json()
            assert receipt["state"] == "stopped"
            assert entry.result.ready()
            assert batch["id"] not in app.state.service.registry
            listed = client.get("/batches").json()["batches"]
            assert (len(listed), listed[0]) == (count, receipt)


def test_the_event_in_the_registry_stops_the_batch(tmp_path: Path) -> None:
    """The textbook pattern: whoever holds the event may set it, without any HTTP."""
    app = create_app(load_settings({"data_dir": tmp_path, "workers": 1}))
    with in_test_client(app) as client:
        body = {"task": "countdown", "items": [{"identifier": 1}, {"identifier": 2}]}
        batch = client.post("/batches", json=body).json()
        entry = app.state.service.registry[batch["id"]]
        link = batch["links"]["self"]
        eventually(lambda: client.get(link).json()["counts"]["running"])
        entry.event.set()

        ended = client.get(link, params={"wait": 20}).json()
        assert (ended["state"], ended["stop"]["reason"]) == ("stopped", "its event was set")
        assert entry.result.get(0) == [ended["results"][0]["result"], None]


@pytest.mark.parametrize(("on_interruption", "state"), [("resume", "running"), ("stop", "stopped")])
def test_batches_cut_short_by_the_end_of_the_lifespan_go_on_in_the_next(
    tmp_path: Path, on_interruption: str, state: str
) -> None:
    """Unless they are not to."""
    app = create_app(load_settings({"data_dir": tmp_path, "workers": 1}))
    with in_test_client(app) as client:
        items = [{"identifier": 1}, {"identifier": 2}]
        options = {"on_interruption": on_interruption}
        body = {"task": "countdown", "items": items, "options": options}
        batch = client.post("/batches", json=body).json()
    with in_test_client(app) as client:
        link = batch["links"]["self"]
        eventually(lambda: client.get(link).json()["state"] == state)
        told = client.get(batch["links"]["history"]).json()["entries"]

    assert "the service is shutting down" in [entry["cause"] for entry in told]


def test_uvicorn_by_itself_drains_as_well(tmp_path: Path) -> None:
    """`uvicorn app.main:app` is what many deploy; its own way down would tell nobody."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "app.main:app", "--port", str(port)],
        cwd=ROOT,
        env=os.environ | {"QUIESCE_DATA_DIR": str(tmp_path), "QUIESCE_SHUTDOWN_GRACE": "3"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: _answers(url))
        with httpx.Client(base_url=url, timeout=30) as http:
            batch = http.post("/batches", json={"task": "stubborn", "items": [{}]}).json()
            link = batch["links"]["self"]
            eventually(lambda: http.get(link).json()["counts"]["running"])
            process.send_signal(signal.SIGTERM)
            eventually(lambda: http.get("/health/ready").status_code == 503)

            receipt = http.delete(link)
            assert (receipt.status_code, receipt.json()["counts"]["killed"]) == (200, 1)
        _, stderr = process.communicate(timeout=COMMAND_LIMIT_S)
        assert process.returncode in (0, -signal.SIGTERM)  # uvicorn ends by the signal it was sent
        assert "Traceback" not in stderr
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live").is_success
    except httpx.TransportError:
        return False


def test_importing_the_application_starts_and_reads_nothing() -> None:
    """A bad variable must not break whoever only imports the module."""
    code = "import app.main, sys; sys.exit('app' in vars(app.main))"
    environment = os.environ | {"QUIESCE_PORT": "nonsense"}

    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


def test_a_second_server_is_refused_the_data_folder_and_told_who_has_it(tmp_path: Path) -> None:
    """Two servers on one folder would corrupt what they keep."""
    with serving(tmp_path) as (service, _):
        run = serve(tmp_path, "--port", "0")

    assert run.returncode == 1
    assert f"in use by another server (process {service.pid})" in run.stderr
    assert "--data-dir" in run.stderr


def test_the_data_folder_is_free_again_when_its_server_is_gone(tmp_path: Path) -> None:
    """A crash leaves the file, not the lock."""
    with serving(tmp_path) as (service, _):
        service.kill()
    with serving(tmp_path) as (_, http):
        eventually(lambda: http.get("/health/ready").is_success)


def test_a_data_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """Whatever the file system says, the message has the folder in it."""
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "folder"

    with (
        pytest.raises(DataDirUnusable, match=r"file/folder.*Not a directory"),
        lock_data_dir(folder),
    ):
        pass


def test_the_lock_is_not_inherited(tmp_path: Path) -> None:
    """A worker that outlives the server for a moment must not keep the next one out."""
    with lock_data_dir(tmp_path):
        flags = [
            fcntl.fcntl(int(link.name), fcntl.F_GETFD)
            for link in Path("/proc/self/fd").iterdir()
            if link.exists() and link.readlink() == tmp_path / "lock"
        ]

    assert flags == [fcntl.FD_CLOEXEC]


def serve(tmp_path: Path, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `serve` that is expected to end by itself."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("QUIESCE_")}
    return subprocess.run(
        [sys.executable, "-m", "app", "serve", "--data-dir", str(tmp_path / "data"), *options],
        cwd=ROOT,
        env=outside | {"PYTHONPATH": str(tmp_path)} | env,
        capture_output=True,
        text=True,
        timeout=COMMAND_LIMIT_S,
        check=False,
    )


TASKS = "from workers import task\n"
BAD_MODULES = {
    "does_not_import": ("import nothing_like_this\n", "No module named 'nothing_like_this'"),
    "is_broken": ("def\n", "SyntaxError"),
    "has_no_task": ("x = 1\n", "has no function marked with @task"),
    "twice": (
        TASKS + "@task\ndef one(n: int): ...\nfirst = one\n@task\ndef one(n: int): ...\n",
        "task 'one' is defined twice",
    ),
    "unannotated": (TASKS + "@task\ndef one(n): ...\n", "parameter 'n' has no annotation"),
}


@pytest.mark.parametrize(("name", "case"), BAD_MODULES.items())
def test_a_task_module_that_cannot_be_used_ends_the_start(
    tmp_path: Path, name: str, case: tuple[str, str]
) -> None:
    """One clear line that names the module, and exit code 2: no traceback to read."""
    source, words = case
    (tmp_path / f"{name}.py").write_text(source)
    run = serve(tmp_path, "--tasks", name)

    assert (run.returncode, run.stdout) == (2, "")
    (line,) = run.stderr.splitlines()
    assert name in line
    assert words in line
    assert "--tasks" in line


def test_bad_settings_are_named_and_nothing_starts(tmp_path: Path) -> None:
    """A line per mistake, and exit code 2."""
    run = serve(tmp_path, "--port", "http", QUIESCE_STOP_WIAT="5")

    assert run.returncode == 2
    unknown, wrong = run.stderr.splitlines()
    assert unknown == (
        "quiesce: QUIESCE_STOP_WIAT is not a setting of this service; did you mean QUIESCE_STOP_WAIT?"
    )
    assert wrong.startswith("quiesce: QUIESCE_PORT / --port: Input should be a valid integer")
    assert wrong.endswith("(got 'http')")
    assert not (tmp_path / "data").exists()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    """Before anything else is started, and with exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = serve(tmp_path, "--port", str(port))

    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in line
    assert not (tmp_path / "data").exists()


def test_an_address_that_is_not_ours_is_named(tmp_path: Path) -> None:
    """A typing mistake in the host is as common as one in the port."""
    run = serve(tmp_path, "--host", "192.0.2.1", "--port", "0")

    assert run.returncode == 1
    assert "cannot listen on 192.0.2.1 port 0" in run.stderr
    assert "Traceback" not in run.stderr


def test_the_help_names_every_option_with_its_variable() -> None:
    """The table in the README is the same list."""
    run = subprocess.run(
        [sys.executable, "-m", "app", "serve", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    for field in type(load_settings()).model_fields:
        assert "--" + field.replace("_", "-") in run.stdout
        assert f"QUIESCE_{field.upper()}" in run.stdout


def test_it_listens_on_ipv6_too(tmp_path: Path) -> None:
    """The printed address is one that can be clicked."""
    with serving(tmp_path, "--host", "::1") as (service, http):
        assert service.url.startswith("http://[::1]:")
        assert http.get("/health/live").is_success
