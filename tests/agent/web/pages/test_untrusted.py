"""What models, environments, logs and persons wrote is shown as text: nothing in it runs, moves other text, or makes a page long."""

from __future__ import annotations

from pathlib import Path

from tests.agent.web.pages.browser import PageSeen, browser_of
from tests.memory.conftest import ADD, SetClock
from tests.memory.everything import BASE, BASE_HASH

from perdure.agent.show.check_notes import note_check
from perdure.envs.check.rules import EnvFinding
from perdure.memory import environments, jobs, processes, stages, tasks, versions
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.records import EpisodePlan, Turn, VersionRef
from perdure.memory.stages import Stage, StageShare
from perdure.memory.store import Store, create_store
from perdure.memory.trajectories.journal import StoreJournal

EVIL = "</pre></script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\x07\u202e\u2066\u200b'\"&{{7001*7001}}"
NAME = f"py:evil:{EVIL}"
LONG = 10_000_000
PAGES = ("/", "/learning", "/tasks", "/environments", "/system", "/learning?job=1")


def evil_home(home: Path) -> None:
    """A home in which everything that can be named by others is hostile."""
    with create_store(home) as store:
        for name in (ADD, NAME):
            environments.register(store, name)
        versions.add_initial(store, BASE, BASE_HASH)
        stages.set_stages(store, [Stage(name=EVIL, environments=(StageShare(name=NAME),), members=1)])
        _play(store, EVIL + "o" * LONG, EVIL + "a" * LONG)
        job = jobs.add_job(store, EVIL, [NAME], LearnOrder(learner="grpo"))
        leased = jobs.lease_job(store, "learner", 60.0, SetClock(), job)
        assert leased is not None
        jobs.fail_job(store, leased[1], EVIL * 1000)
        jobs.add_job(store, "waits", [NAME], LearnOrder(learner="grpo"))
        processes.beat(store, "supervisor", 4242, EVIL, EVIL * 100)
        processes.record_event(store, "death", EVIL, EVIL * 1000)
        processes.pause(store, "play", EVIL)
    note_check(home, NAME, [EnvFinding(level="warning", rule="runs", message=EVIL)])
    (home / "logs" / f"{EVIL.replace('/', '')[:60]}.log").write_bytes(EVIL.encode() * 10_000 + b"\xff\xfe")


def _play(store: Store, observation: str, action: str) -> None:
    clock = SetClock()
    tasks.add_tasks(store, NAME, [7], 1, "person")
    ((_, lease),) = tasks.lease_tasks(store, "actor", 1, 60.0, clock)
    journal = StoreJournal(store, clock)
    plan = EpisodePlan(
        environment=NAME, seed=7, group="task-1", member=0, purpose="live", sampler=VersionRef("v0"), temperature=1.0, lease=lease
    )
    (episode,) = journal.start([plan])
    turn = Turn(
        prompt_ids=(1,), action_ids=(2,), logprobs=(-0.5,), observation=observation, action=action, reward=0.0,
        sampler=VersionRef("v0"), finish="stop",
    )  # fmt: skip
    journal.turns([(episode, 0, turn)])


def test_nothing_of_what_others_wrote_runs_on_a_page(tmp_path: Path) -> None:
    home = tmp_path / "home"
    evil_home(home)
    browser = browser_of(home)
    shown = [browser.get(path) for path in PAGES]
    links = [address for page in shown for address in _links(page) if address.startswith("/environments?name=py")]
    assert links
    shown += [browser.get(address) for address in links[:1]]
    shown += [browser.get(f"/?part={part}") for part in ("state", "play", "job", "queue", "events")]
    for page in shown:
        assert page.status == 200, page.text
        assert (page.left_open, page.styled) == ([], [])
        assert all(source is not None and source.startswith("/static/") for source in page.scripts)
        assert "<img" not in page.html
        assert not set(page.text + "".join(page.told)) & set("\x1b\x07\u202e\u2066\u200b"), "a control character is shown"
        assert "49014001" not in page.html, "a template was run"
        assert len(page.html) < 300_000, len(page.html)
    assert "\\x1b[31m\\x07\\u202e" in shown[0].text
    assert "of 4,000 characters" in shown[0].text or "more characters" in shown[0].text


def test_a_form_carries_a_hostile_name_whole(tmp_path: Path) -> None:
    home = tmp_path / "home"
    evil_home(home)
    browser = browser_of(home)
    (address, *_) = [address for address in _links(browser.get("/environments")) if address.startswith("/environments?name=py")]
    form = browser.get(address).form("/act/environments/retire")
    after = browser.submit(form, reason="it is hostile")
    assert "is retired" in after.text
    assert not set(after.text) & set("\x1b\x07\u202e")


def test_an_address_is_shown_inert_too(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with create_store(home):
        browser = browser_of(home)
    for path in (
        "/environments?name=%3Cscript%3Ealert(1)%3C/script%3E%1B%E2%80%AE",
        "/%3Cscript%3Ealert(1)%3C/script%3E",
        "/tasks?state=%3Cb%3E",
    ):
        page = browser.get(path)
        assert page.status in (404, 422)
        assert "<script>alert" not in page.html
        assert not set(page.html) & set("\x1b\u202e")
    for path in ("/tasks?before=0", "/tasks?before=x", "/tasks?before=99999999999999999999", "/learning?job=-1", "/learning?span=century"):
        assert browser.get(path).status == 422, path


def _links(page: PageSeen) -> list[str]:
    from html import unescape
    from re import findall

    return [unescape(address) for address in findall(r'<a href="([^"]+)"', page.html)]
