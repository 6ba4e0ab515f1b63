"""Clients that go on whatever dies, and keep what they were told; each is a thread of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import httpx

from tests.chaos.findings import Broken, Findings
from tests.chaos.lives import Lives
from tests.chaos.mixture import Draft, draw, ticks
from tests.chaos.site import PAGE, Json, http_options
from tests.chaos.told import ENDED, Told

CLIENT_LIMIT_S = 40.0
#: How many batches one client has under way.
MOST_LIVE = 3
MOST_TICKS = 4_000
LONGEST_CLIMB_S = 4.0
#: Of a task that never looks: longer than the next service takes to start.
LONGEST_TOIL_S = 6.0
TOIL = ["work"]
#: There is a restart between the looks, so tasks last longer than elsewhere.
STRETCH = 2.0
RESUMABLE = ("skipped", "stopped", "killed", "failed")
GRACES = (None, "never", 0, 0.1, 0.5)
WAITS_S = (0, 0, 0.2, 30)


class CrashClient:
    """One client. `told` may be read by others once its thread has ended."""

    def __init__(self, number: int, lives: Lives, folder: Path, dice: Random) -> None:
        self.told: list[Told] = []
        self.findings = Findings(f"client {number}")
        self._number, self._lives, self._folder, self._dice = number, lives, folder, dice
        self._http, self._url = httpx.Client(), ""
        self._done = self.findings.harshness
        self._acts, self._weights = zip(*self._menu(), strict=True)

    def run(self, over: threading.Event) -> None:
        """Ask for this and that until it is over, then leave everything as it is."""
        try:
            while not over.is_set():
                if self.connect():
                    self._dice.choices(self._acts, self._weights)[0]()
        except Exception as error:  # it has to be told by another thread
            self.findings.examples.append(f"{self.findings.part}: {error!r}")
            raise
        finally:
            self.close()

    def close(self) -> None:
        """Hang up."""
        self._http.close()

    def connect(self) -> bool:
        """Be with the present service; one that is new is asked what it knows."""
        url = self._lives.await_url(0.1)
        if url and url != self._url:
            self._http.close()
            self._http, self._url = httpx.Client(base_url=url, timeout=CLIENT_LIMIT_S), url
            return self.meet_again()
        return bool(url)

    def ask(self, method: str, path: str, **given: Any) -> httpx.Response | None:
        """The answer; None if nobody knows whether the service has heard of it."""
        try:
            reply = self._http.request(method, path, **given)
        except httpx.TimeoutException as error:
            self.findings.add(Broken.HUNG, f"{method} {path}: {error!r}")
            return None
        except httpx.TransportError:
            self._done["requests without an answer"] += 1
            return None
        if reply.status_code == 503:  # it is going down
            return None
        if reply.status_code >= 500:
            self.findings.add(Broken.LOST, f"{method} {path}: {reply.status_code} {reply.text}")
        return reply

    def meet_again(self) -> bool:
        """Compare all batches of this client's with what it knows; whether there was an answer."""
        found: list[Json] = []
        path: str | None = f"/batches?label=client:{self._number}&limit={PAGE}"
        while path is not None:
            reply = self.ask("GET", path)
            if reply is None:
                return False
            found += reply.json()["batches"]
            following = reply.json()["next"]
            path = following and (
                f"/batches?label=client:{self._number}&limit={PAGE}&cursor={following}"
            )
        for told in self.told:
            told.hear_list([batch for batch in found if batch["name"] == told.name])
        return True

    # --- what it asks for -------------------------------------------------------------------------

    def _menu(self) -> list[tuple[Callable[[], None], int]]:
        of_one: list[tuple[Callable[[Told, Json], None], int]] = [
            (self.look, 4),
            (self.read_results, 2),
            (self.read_tasks, 2),
            (self._stop, 2),
            (self._stop_task, 2),
            (self._resume, 3),
            (self._purge, 1),
        ]
        menu = [(lambda act=act: self._with_one(act), weight) for act, weight in of_one]
        return [(self._submit, 5), (self._replay, 1), *menu]

    def _with_one(self, act: Callable[[Told, Json], None]) -> None:
        chosen = [told for told in self.told[-8:] if told.batch is not None and not told.is_gone]
        if chosen:
            live = [told for told in chosen if told.is_live]
            told = self._dice.choice(live if live and self._dice.random() < 0.5 else chosen)
            assert told.batch is not None
            act(told, told.batch)

    def _submit(self) -> None:
        live = [told for told in self.told if told.is_live]
        if len(live) >= MOST_LIVE:
            assert live[0].batch is not None
            self._stop(live[0], live[0].batch, grace=0)
            return
        told = self._draft()
        self.told.append(told)
        self._post(told)

    def _draft(self) -> Told:
        draft, number = _draw(self._dice), f"{self._number}-{len(self.told)}"
        log = self._folder / number
        log.touch()
        options = http_options(draft.options)
        if self._dice.random() < (0.5 if draft.kinds == TOIL else 0.1):
            options["on_interruption"] = "stop"
        body = {
            "task": draft.task,
            "items": draft.items(str(log)),
            "name": number,
            "labels": {"client": str(self._number)},
            "options": options,
        }
        key = f"key-{number}" if self._dice.random() < 0.5 else None
        return Told(number, log, draft, body, key, self.findings)

    def _post(self, told: Told) -> None:
        headers = {} if told.key is None else {"Idempotency-Key": told.key}
        reply = self.ask("POST", "/batches", json=told.body, headers=headers)
        if reply is None:
            return
        if reply.status_code != 202:
            self.findings.add(Broken.LOST, f"POST: {reply.status_code} {reply.text}")
            return
        if told.first not in (None, reply.content):
            self.findings.add(Broken.CHANGED, f"{told.first!r} became {reply.content!r}")
        told.first = reply.content
        if told.batch is None:
            told.hear(reply.json())
            self._done["batches"] += 1

    def _replay(self) -> None:
        """What was sent with a key is sent again, above all if there was no answer."""
        keyed = [told for told in self.told if told.key is not None and not told.may_be_gone]
        silent = [told for told in keyed if told.first is None]
        if keyed:
            self._post(self._dice.choice(silent or keyed))
            self._done["keys used again"] += 1

    def look(self, told: Told, batch: Json, wait_s: float | None = None) -> None:
        """GET the batch."""
        wait_s = self._dice.choice(WAITS_S[:3]) if wait_s is None else wait_s
        reply = self.ask("GET", batch["links"]["self"], params={"wait": wait_s})
        if reply is not None:
            if reply.status_code == 404:
                told.hear_gone()
            else:
                told.hear(reply.json())

    def read_results(self, told: Told, batch: Json) -> None:
        """GET the results there are."""
        reply = self.ask("GET", batch["links"]["results"])
        if reply is None or reply.status_code == 404:
            return
        lines = [json.loads(line) for line in reply.text.splitlines()]
        ended = sum(batch["counts"][state] for state in ("succeeded", "failed", "stopped"))
        if len(lines) < ended or [line["index"] for line in lines] != sorted(
            {line["index"] for line in lines}
        ):
            self.findings.add(Broken.LOST, f"{told.name}: {len(lines)} results of {ended}")
        for line in lines:
            told.hear_task(line)

    def read_tasks(self, told: Told, batch: Json) -> None:
        """GET every task."""
        path: str | None = f"{batch['links']['tasks']}?limit={PAGE}"
        while path is not None:
            reply = self.ask("GET", path)
            if reply is None or reply.status_code == 404:
                return
            for task in reply.json()["tasks"]:
                told.hear_task(task)
            following = reply.json()["next"]
            path = following and f"{batch['links']['tasks']}?limit={PAGE}&cursor={following}"

    def _stop(self, told: Told, batch: Json, grace: float | str | None = None) -> None:
        grace = self._dice.choice(GRACES) if grace is None else grace
        params: Json = {"wait": self._dice.choice(WAITS_S)}
        params |= {} if grace is None else {"grace": grace}
        told.is_stop_asked = True
        reply = self.ask("DELETE", batch["links"]["self"], params=params)
        if reply is not None and reply.status_code != 404:
            told.hear(reply.json())
            self._done[f"stops answered {reply.status_code}"] += 1

    def _stop_task(self, told: Told, batch: Json) -> None:
        index = self._dice.randrange(batch["total"])
        params = {"wait": self._dice.choice(WAITS_S), "grace": self._dice.choice((0, 0.1, "never"))}
        told.stopped_tasks.add(index)
        reply = self.ask("DELETE", f"{batch['links']['tasks']}/{index}", params=params)
        if reply is not None and reply.status_code != 404:
            told.hear_task_stop(index, reply.status_code)
            told.hear_task(reply.json())
            self._done[f"stops of one task answered {reply.status_code}"] += 1

    def _resume(self, told: Told, batch: Json) -> None:
        if batch["state"] not in ENDED:
            return
        if told.is_unsure:
            self.look(told, batch)
            return
        states = self._dice.sample(RESUMABLE, self._dice.randint(1, len(RESUMABLE)))
        told.hear_resume(states)
        reply = self.ask("POST", f"{batch['links']['self']}/resume", params={"states": states})
        if reply is not None and reply.status_code == 202:
            told.hear(reply.json())
            self._done["resumes"] += 1
        elif reply is not None and reply.status_code not in (404, 409):
            self.findings.add(Broken.LOST, f"resume: {reply.status_code} {reply.text}")

    def _purge(self, told: Told, batch: Json) -> None:
        told.is_stop_asked = told.may_be_gone = True
        params = {"purge": True, "grace": 0, "wait": self._dice.choice(WAITS_S)}
        reply = self.ask("DELETE", batch["links"]["self"], params=params)
        if reply is not None and reply.status_code == 200:
            told.hear(reply.json())
            told.is_gone = True
            self._done["purges"] += 1


def _draw(dice: Random) -> Draft:
    draft = draw(dice, STRETCH)
    sort = dice.random()
    if sort < 0.1:
        return ticks(dice, MOST_TICKS)
    if sort < 0.35:
        count = dice.randint(1, 4)
        lengths = [dice.uniform(0.1, LONGEST_CLIMB_S) for _ in range(count)]
        return Draft("climb", ["climb"] * count, lengths, _untimed(draft.options))
    if sort < 0.45:
        count = dice.randint(1, 20)
        return Draft("stumble", ["stumble"] * count, [0.0] * count, draft.options)
    if sort < 0.6:
        lasts_s = dice.uniform(2, LONGEST_TOIL_S)
        return Draft("act", TOIL, [lasts_s], _untimed(draft.options))
    return draft


def _untimed(options: Json) -> Json:
    return {name: value for name, value in options.items() if not name.startswith("timeout")}
