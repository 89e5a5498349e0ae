"""The study of real lives: which parts follow from a life, what they come to, its plots, and a life of a tiny model from end to end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.agent.studies.study_cells import run_here
from tests.tiny_models import tiny_llama

from perdure.agent.home import lock_is_held
from perdure.agent.show.short_names import short_name
from perdure.agent.studies.cells import Cell, CellResult, Desk
from perdure.agent.studies.life.home_history import how_far
from perdure.agent.studies.life.life_arms import learn_jointly, learning_jobs, live_naively, probe_version
from perdure.agent.studies.life.life_page import life_page
from perdure.agent.studies.life.life_plots import plot_life
from perdure.agent.studies.life.life_study import LifeSize, cell_name, life_study
from perdure.agent.studies.life.life_summary import dropped_verdicts, life_summary, seconds_by_activity
from perdure.agent.studies.life.perdure_process import RunPlace, Sitting, command, minutes_run, read_sittings, run_daemon
from perdure.agent.studies.study_file import open_study
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.errors import RuntimeFailure
from perdure.memory.jobs import list_jobs, steps
from perdure.memory.json_value import Document
from perdure.memory.store import create_store, open_store
from perdure.memory.versions import list_versions, moves, rollback

NAMES = ["perdure:first-word?shots=2", "perdure:door-code?shots=3"]
SIZE = LifeSize(hours=0.5, seeds=1, tasks=40)
DAEMON = "run_daemon(place, 600.0, print, str)"
LEARNING = "command(place, 'learn', 'grpo', *place.configured, '--no-gate', '--target', 'py:tests.agent.coin:Coin')"


def job(number: int, verdict: str | None, **more: object) -> Document:
    return {
        "id": number,
        "kind": "learn",
        "state": "done",
        "learner": "grpo",
        "options": {"seed": 0, "updates": 12},
        "targets": [NAMES[number % 2]],
        "candidate": f"v{number}",
        "verdict": verdict,
        "reason": "all held, gain shown",
        "updates": 12,
        "queued": 2.0 * number,
        "ended": 2.0 * number + 1.5,
        "sampling_s": 20.0,
        "updating_s": 30.0,
        "learn_s": 55.0,
        "gate_s": 30.0,
        "follows": None,
        **more,
    }


HISTORY: Document = {
    "environments": NAMES,
    "minutes": 30.0,
    "live_episodes": 1000,
    "served": [
        {"version": "v0", "minute": 0.1, "kind": "initial"},
        {"version": "v1", "minute": 3.5, "kind": "promote"},
        {"version": "v3", "minute": 7.5, "kind": "promote"},
    ],
    "versions": [{"name": f"v{n}", "on_disk": n != 2} for n in range(4)],
    "jobs": [job(1, "promote"), job(2, "reject", reason="first-word (-.30) fell against v1"), job(3, "promote")],
}


def results(size: LifeSize = SIZE, *, beside: bool = True) -> dict[str, CellResult]:
    """A study in which everything is finished: each cell with rows made by hand."""
    finished: dict[str, CellResult] = {}
    study = life_study(size, beside=beside)
    while left := [cell for cell in study.cells(finished) if cell.name not in finished]:
        for cell in left:
            finished[cell.name] = CellResult(name=cell.name, parameters=cell.parameters, made_by="abc", seconds=1.0, rows=rows_of(cell))
    return finished


def rows_of(cell: Cell) -> tuple[Document, ...]:
    if "version" in cell.parameters:
        arm, number = cell.parameters["arm"], int(cell.parameters["version"][1:])
        rate = {"life": 0.3 + 0.2 * number, "naive": 0.9 - 0.2 * number, "joint": 0.6}[arm]
        wins = [float(r % 10 < round(10 * rate)) for r in range(cell.parameters["tasks"])]
        return tuple({"environment": name, "scores": wins} for name in NAMES)
    if "jobs" in cell.parameters:
        return tuple({"version": f"v{n + 1}", "updates": made["updates"]} for n, made in enumerate(cell.parameters["jobs"]))
    return ({"version": "v1", "updates": 36, "step": 33, "ended_early": None},) if "updates" in cell.parameters else (HISTORY,)


def test_what_is_done_follows_from_the_life() -> None:
    study = life_study(SIZE)
    assert [cell.name for cell in study.cells({})] == ["seed 0, 0.5 h: life"]
    finished = results()
    names = [name.split(": ")[1] for name in finished]
    assert [name for name in names if " of the life arm" in name] == [f"v{n} of the life arm on 40 tasks" for n in (0, 1, 3)]
    assert [name for name in names if " of the naive arm" in name] == [f"v{n} of the naive arm on 40 tasks" for n in (1, 2, 3)]
    joint = next(result for name, result in finished.items() if name.endswith(": joint"))
    assert joint.parameters["updates"] == 36
    assert joint.parameters["targets"] == NAMES
    assert "updates" not in joint.parameters["options"]


def test_a_life_alone_is_lived_and_probed_and_says_nothing_of_others() -> None:
    finished = results(beside=False)
    assert list(finished) == [name for name in results() if name.endswith(": life") or "of the life arm" in name]
    page = life_page(life_summary(finished, SIZE), [])
    assert "--seeds 1 --alone`" in page
    assert "joint job on all of them" not in page


def test_the_naive_life_repeats_the_jobs_that_made_a_version() -> None:
    history = {**HISTORY, "jobs": [*HISTORY["jobs"], job(4, None, candidate=None, updates=3)]}
    assert [made["targets"] for made in learning_jobs(history)] == [[NAMES[1]], [NAMES[0]], [NAMES[1]]]


def test_the_summary_has_best_ever_against_present_and_the_arms_beside_it() -> None:
    document = life_summary(results(), SIZE)
    (life,) = document["lives"]
    assert life["verdicts"] == {"promote": 2, "reject": 1}
    assert life["updates"] == 36
    assert life["means"]["v3"][NAMES[0]] == pytest.approx(0.9)
    assert life["fell"][NAMES[0]]["fell"] is False
    assert life["naive_fell"][NAMES[0]] | {"lost": None} == {"best": "v1", "lost": None, "fell": True}
    assert life["life_minus_joint"]["mean"] == pytest.approx(0.3)
    over = document["over_seeds"]
    assert (over["start"], over["life"], over["joint"]) == pytest.approx((0.3, 0.9, 0.6))
    assert (over["fell"], over["naive_fell"], over["dropped"]) == (0, 2, 1)


def test_what_is_missing_is_left_out() -> None:
    finished = results()
    only_life = {name: result for name, result in finished.items() if name.endswith(": life")}
    (life,) = life_summary(only_life, SIZE)["lives"]
    assert "joint" not in life
    assert "fell" not in life
    assert life_summary({}, SIZE)["lives"] == []


def test_a_verdict_is_dropped_if_it_cost_something_and_nothing_followed() -> None:
    jobs = [
        job(1, "reject", reason="no gain: first-word (+.01 over 80 pairs)"),
        job(2, "inconclusive", reason="not shown to hold in 192 rounds"),
        job(3, "reject", reason="door-code (-.3) fell against v0", follows=2),
        job(4, "inconclusive", reason="all held, gain not shown yet"),
        job(5, "promote"),
        job(6, "reject", reason="door-code (-.3) fell against v5"),
    ]
    assert [one["job"] for one in dropped_verdicts({"jobs": jobs})] == [3, 4]


def test_seconds_add_up_to_the_life() -> None:
    seconds = seconds_by_activity(HISTORY)
    parts = ("sampling to learn", "updates", "checks and loading", "gates", "live play and the rest")
    assert sum(seconds[part] for part in parts) == pytest.approx(1800)
    assert (seconds["gate_median"], seconds["gate_worst"], seconds["job_to_verdict_median"]) == (30.0, 30.0, pytest.approx(90.0))


def test_minutes_count_only_while_the_daemon_runs() -> None:
    sittings = [Sitting(1000.0, 1600.0), Sitting(5000.0, 5300.0)]
    assert [minutes_run(sittings, moment) for moment in (900, 1300, 3000, 5120, 9000)] == pytest.approx([0, 5, 10, 12, 15])


def test_how_far_a_home_is_never_fails(tmp_path: Path) -> None:
    assert how_far(tmp_path).startswith("no store in")
    with create_store(tmp_path):
        assert "no version serves" in how_far(tmp_path)


def test_plots_are_small_have_no_fonts_and_come_out_the_same(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    document = life_summary(results(), SIZE)
    (tmp_path / "again").mkdir()
    first, second = plot_life(document, tmp_path), plot_life(document, tmp_path / "again")
    for one, other in zip(first, second, strict=True):
        text = one.read_text()
        assert text == other.read_text()
        assert len(text) < 100_000
        assert "<text" in text
        assert "@font-face" not in text
    assert "first-word" in first[0].read_text()


def test_the_page_has_a_row_for_each_seed_environment_and_job() -> None:
    page = life_page(life_summary(results(), SIZE), [Path("/somewhere/life-means.svg")])
    assert "| 0 | 0.30 | 0.90 | 0.60 | 0.30 | +0.300 (+" in page
    assert " | 2 of 3 | 36 | none | first-word, door-code |" in page
    assert "The joint job was to make 36 updates; the weights after update 33 are its version." in page
    assert "![life-means](life-means.svg)" in page
    assert page.count("| first-word |") == 2
    assert "| 2 learn | 5.5 | first-word | v2 | reject | first-word (-.30) fell against v1 |" in page


def test_short_names() -> None:
    assert short_name("textarena:GuessTheNumber-v0?max_number=10") == "GuessTheNumber-v0"


def tiny(folder: Path) -> str:
    """A model and a stream that make a life of seconds."""
    coin = "py:tests.agent.coin:Coin"
    return "\n".join(
        (
            f"model = '{tiny_llama(folder / 'model')}'",
            f"[stream]\nenvironments = ['{coin}', '{coin}?side=1']",
            "[learn]\nevery_episodes = 32",
            "[learn.options]\nupdates = 1\nprompts = 2\nsamples = 4\nrank = 2",
            f"[sandbox]\ntrusted = ['perdure:', '{coin}']\n",
        )
    )


COINS = ["py:tests.agent.coin:Coin", "py:tests.agent.coin:Coin?side=1"]


@pytest.mark.long
@pytest.mark.processes
def test_a_life_of_seconds_leaves_its_history_and_is_not_lived_again(tmp_path: Path) -> None:
    """Alone: the naive life and the joint job have tests of their own below."""
    size = LifeSize(hours=40 / 3600, seeds=1, tasks=4)
    study = life_study(size, tiny(tmp_path), beside=False)
    said: list[str] = []
    with open_study(tmp_path / "study") as file:
        done = run_here(study, file, said.append, 1)
    assert [result.error for result in done.values() if result.error] == []
    (history,) = done[cell_name(0, size.hours, "life")].rows
    assert history["minutes"] * 60 == pytest.approx(40, abs=15)
    assert history["environments"] == COINS
    assert (history["served"][0]["version"], history["served"][0]["kind"]) == ("v0", "initial")
    assert 0 < history["served"][0]["minute"] < history["minutes"]
    (life,) = life_summary(done, size)["lives"]
    assert life["means"]["v0"].keys() == set(COINS)
    with open_study(tmp_path / "study") as file:
        assert run_here(study, file, said.append, 1) == done


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.learning
def test_the_naive_life_and_the_joint_job_continue_where_they_were_cut_off(tmp_path: Path) -> None:
    """The naive life is called again after its first job, and after a job whose version does not serve yet."""
    desk = Desk(folder=tmp_path, say=print)
    options = {"prompts": 2, "samples": 4, "rank": 2, "updates": 9}
    jobs = [{"learner": "grpo", "targets": [name], "options": options, "updates": 1} for name in COINS]
    own = {"seed": 3, "hours": 0.1, "settings": tiny(tmp_path)}
    (first,) = live_naively({**own, "jobs": jobs[:1]}, desk)
    home = tmp_path / "seed-3-0.1h" / "naive"
    with open_store(home) as store:
        assert moves(store)[-1].to_version == first["version"] == "v1"
        assert list_jobs(store)[0].order == LearnOrder(
            learner="grpo", options={**options, "seed": 3, "updates": 1, "replay": 0.0}, gate=False
        )
    rows = list(live_naively({**own, "jobs": jobs}, desk))
    assert [row["version"] for row in rows] == ["v1", "v2"]
    with open_store(home) as store:
        assert [version.parent for version in list_versions(store)] == ["v1", "v0", None]
        rollback(store, "v1", "a test: v2 is to be as if it had never served")
        store.db.execute("UPDATE version SET state = 'candidate' WHERE name = 'v2'")
        store.db.execute("DELETE FROM move WHERE id > 2")
    assert list(live_naively({**own, "jobs": jobs}, desk)) == rows
    with open_store(home) as store:
        assert len(list_jobs(store)) == 2
    joint = {**own, "learner": "grpo", "options": options, "targets": COINS, "updates": 2}
    (made,) = learn_jointly(joint, desk)
    assert (made["version"], made["updates"]) == ("v1", 2)
    assert list(learn_jointly(joint, desk)) == [made]
    probed = list(probe_version({**own, "arm": "joint", "version": "v1", "tasks": 4, "environments": COINS}, desk))
    assert [row["environment"] for row in probed] == COINS
    assert all(len(row["scores"]) == 4 and set(row["scores"]) <= {0.0, 1.0} for row in probed)


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_joint_job_that_is_cut_off_goes_on_where_it_was(tmp_path: Path, number: signal.Signals) -> None:
    options = {"prompts": 2, "samples": 4, "rank": 2}
    joint = {"seed": 3, "hours": 0.1, "settings": tiny(tmp_path), "learner": "grpo", "options": options, "targets": COINS, "updates": 12}
    program = (
        "import json, sys; from pathlib import Path; from perdure.agent.studies.cells import Desk\n"
        "from perdure.agent.studies.life.life_arms import learn_jointly\n"
        "list(learn_jointly(json.loads(sys.argv[1]), Desk(folder=Path(sys.argv[2]), say=print)))"
    )
    home = tmp_path / "seed-3-0.1h" / "joint"
    with subprocess.Popen([sys.executable, "-c", program, json.dumps(joint), str(tmp_path)], stderr=subprocess.DEVNULL) as study:
        deadline = time.monotonic() + 60
        while not lock_is_held(home) or updates_made(home) < 3:
            assert study.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        study.send_signal(number)
        study.wait(60)
    while lock_is_held(home):
        time.sleep(0.05)
    assert 3 <= updates_made(home) < 12
    (made,) = learn_jointly(joint, Desk(folder=tmp_path, say=print))
    assert made["updates"] == 12
    with open_store(home) as store:
        (job,) = list_jobs(store)
        assert [row["n"] for row in store.rows("SELECT n FROM step WHERE job = ? ORDER BY n", (job.id,))] == list(range(1, 13))


def updates_made(home: Path) -> int:
    try:
        with open_store(home) as store:
            return len(steps(store, 1))
    except RuntimeFailure:  # the store is being made
        return 0


@pytest.mark.processes
def test_a_daemon_lives_in_several_sittings_and_ends_in_an_orderly_way(tmp_path: Path) -> None:
    config = tmp_path / "perdure.toml"
    config.write_text(f"seed = 0\n{tiny(tmp_path)}")
    place = RunPlace(home=tmp_path / "home", config=config)
    said: list[str] = []
    run_daemon(place, 6.0, said.append, str)
    run_daemon(place, 5.0, said.append, str)  # it has lived longer already
    assert len(read_sittings(place)) == 1
    run_daemon(place, 9.0, said.append, str)
    first, second = read_sittings(place)
    assert first.ended - first.began == pytest.approx(6, abs=1)
    assert second.ended - second.began == pytest.approx(3, abs=1)
    command(place, "store", "check")


@pytest.mark.long
@pytest.mark.processes
def test_a_daemon_that_cannot_run_and_a_command_that_fails_say_why(tmp_path: Path) -> None:
    config = tmp_path / "perdure.toml"
    config.write_text("model = '/nowhere/at/all'\n")
    place = RunPlace(home=tmp_path / "home", config=config)
    with pytest.raises(RuntimeFailure, match=r"the daemon ended by itself with 2: .*nowhere"):
        run_daemon(place, 60.0, str, str)
    with pytest.raises(RuntimeFailure, match=r"`perdure learn nonsense` ended with 2: .*no learner"):
        command(place, "learn", "nonsense")


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("work", [DAEMON, LEARNING], ids=["run", "learn"])
def test_a_study_that_is_ended_or_killed_leaves_no_command_behind(tmp_path: Path, work: str, number: signal.Signals) -> None:
    """Also from the background, where shells ignore Ctrl-C."""
    config = tmp_path / "perdure.toml"
    config.write_text(f"seed = 0\n{tiny(tmp_path)}".replace("updates = 1", "updates = 4000"))
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); from pathlib import Path\n"
        "from perdure.agent.studies.life.perdure_process import RunPlace, command, run_daemon\n"
        f"place = RunPlace(home=Path(sys.argv[1]), config=Path(sys.argv[2]))\n{work}"
    )
    home = tmp_path / "home"
    lock = home / "run" / "lock"
    with subprocess.Popen([sys.executable, "-c", program, str(home), str(config)], stderr=subprocess.DEVNULL) as study:
        deadline = time.monotonic() + 60
        while not lock.exists() or not lock.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        study.send_signal(number)
        study.wait(60)
        while lock.read_text():
            assert time.monotonic() < deadline + 60
            time.sleep(0.1)
    assert home.with_suffix(".sittings.json").exists() == (work == DAEMON)
