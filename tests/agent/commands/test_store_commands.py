"""`perdure store`: what the commands print, their exit codes, and that they work beside a daemon that writes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.agent.conftest import ADD, Call
from tests.memory.everything import adapter, fill, leased_task, play
from tests.tiny_models import tiny_llama
from transformers import AutoTokenizer

from perdure.agent.home import HomeLock
from perdure.learners.weights.base_models import find_model
from perdure.memory import environments, versions
from perdure.memory.layout.blobs import pack_ids, pack_logprobs
from perdure.memory.layout.digests import TURN
from perdure.memory.leases import end_all_leases
from perdure.memory.store import Store, create_store, open_store
from perdure.memory.trajectories.episodes import counts
from perdure.memory.trajectories.journal import abort_orphans


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A home with a few rows of everything, as a daemon finds it when it starts again."""
    home = tmp_path / ".perdure"
    with create_store(home) as store:
        fill(store)
        end_all_leases(store)
        store.rows("UPDATE task SET state = 'queued', owner = NULL WHERE state = 'leased'")
        abort_orphans(store)
    return home


def test_a_whole_store_is_said_to_be_whole(perdure: Call, full: Path) -> None:
    done = perdure("store", "check")
    found = json.loads(done.out)
    assert (done.code, found["ok"], found["findings"]) == (0, True, [])
    assert found["looked_at"] == {"episodes": 12, "turns": 15, "versions": 4, "archives": 0, "shards": 0}
    assert "model tiny is not on this machine" in found["skipped"]["tokens-and-texts"]
    assert json.loads(perdure("store", "check", "--no-tokens").out)["skipped"] == {"tokens-and-texts": "--no-tokens was given"}


def test_a_broken_store_is_exit_code_1_and_a_warning_is_not(perdure: Call, full: Path) -> None:
    (full / "versions" / ".making-v9-1").mkdir()
    done = perdure("store", "check")
    assert (done.code, [row["level"] for row in json.loads(done.out)["findings"]]) == (0, ["warning"])
    (full / "versions" / "v1" / "adapter_config.json").write_text("[]")
    done = perdure("store", "check")
    found = json.loads(done.out)
    assert (done.code, found["ok"]) == (1, False)
    assert set(found["findings"][0]) == {"level", "rule", "subject", "message"}
    assert (found["findings"][0]["rule"], found["findings"][0]["subject"]) == ("version-files", "v1")
    assert "sha256 differs" in found["findings"][0]["message"]


def seal(store: Store) -> None:
    """Seal changed turns, each the only one of its episode, as a program would that wrote them so."""
    store.rows(f"UPDATE turn SET digest = (SELECT -1 - turn_chain({TURN}) FROM turn t WHERE t.rowid = turn.rowid)")
    store.rows("UPDATE episode SET state = state")


def test_texts_are_held_against_their_tokens(perdure: Call, tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model")
    files = find_model(str(model), tmp_path / "cache")
    assert files is not None
    with create_store(tmp_path / ".perdure") as store:
        versions.add_initial(store, str(model), files.hash)
        environments.register(store, ADD)
        play(store, leased_task(store), "task-1", [1.0])
        tokenizer = AutoTokenizer.from_pretrained(model)
        ids = tokenizer.encode("fish green", add_special_tokens=False)
        ids.append(tokenizer.eos_token_id)
        sql = "UPDATE turn SET action_ids = ?, logprobs = ?, action = 'fish green'"
        store.rows(sql, (pack_ids(ids), pack_logprobs([-1.0] * len(ids))))
        seal(store)
        store.rows("UPDATE task SET state = 'queued'")
        abort_orphans(store)
    done = perdure("store", "check")
    assert (done.code, json.loads(done.out)["skipped"]) == (0, {}), done.out
    with open_store(tmp_path / ".perdure") as store:
        store.rows("UPDATE turn SET action = 'fish blue'")
    done = perdure("store", "check")
    found = json.loads(done.out)
    assert [(one["rule"], one["subject"]) for one in found["findings"]] == [("digests", "episode 1 turn 0")]
    assert found["skipped"] == {"tokens-and-texts": "mend the errors first"}
    with open_store(tmp_path / ".perdure") as store:
        seal(store)
    done = perdure("store", "check")
    assert "reading the whole store" in done.err, "also where that is no terminal"
    (finding,) = json.loads(done.out)["findings"]
    assert (done.code, finding["rule"], finding["subject"]) == (1, "tokens-and-texts", "episode 1 turn 0")
    assert finding["message"] == "says 'fish blue', but its tokens say 'fish green'"
    with open_store(tmp_path / ".perdure") as store:
        store.rows("UPDATE task SET state = 'done'")
    assert perdure("store", "archive", "--older-than", "0d").code == 0
    done = perdure("store", "check")
    found = json.loads(done.out)
    assert (done.code, found["looked_at"]["shards"], found["skipped"]) == (1, 1, {})
    assert found["findings"] == [finding], "also of a turn that is in a shard"


def test_a_backup_is_taken_and_restores(perdure: Call, full: Path, tmp_path: Path) -> None:
    done = perdure("store", "backup", "b.db")
    found = json.loads(done.out)
    assert (done.code, found["episodes"], found["versions"], found["lacks"]) == (0, 12, ["v1", "v2", "v3"], [])
    assert perdure("store", "backup", "b.db").code == 2
    assert perdure("store", "backup", "b.db", "--force").code == 0
    restored = tmp_path / "restored"
    restored.mkdir()
    shutil.copyfile("b.db", restored / "perdure.db")
    shutil.copytree("b.db.versions", restored / "versions")
    checked = perdure("store", "check", "--home", str(restored))
    assert (checked.code, json.loads(checked.out)["findings"]) == (0, [])
    shown = [json.loads(perdure("version", "list", "--json", "--home", str(home)).out) for home in (full, restored)]
    assert shown[0] == shown[1]
    assert perdure("version", "promote", "v3", "--reason", "its files are there", "--home", str(restored)).code == 0


def test_a_backup_that_lacks_an_adapter_says_so(perdure: Call, full: Path) -> None:
    shutil.rmtree(full / "versions" / "v1")
    done = perdure("store", "backup", "b.db")
    assert (done.code, [lack["version"] for lack in json.loads(done.out)["lacks"]]) == (1, ["v1"])
    assert Path("b.db").is_file()


def test_episodes_go_out_and_come_in(perdure: Call, full: Path) -> None:
    done = perdure("store", "export", "--format", "parquet", "--out", "ep.parquet")
    assert (done.code, json.loads(done.out)["episodes"]) == (0, 12)
    assert pq.read_table("ep.parquet").num_rows == 12
    done = perdure("store", "export", "--format", "jsonl", "--out", "ep.jsonl", "--purpose", "live", "--env", ADD, "--since", "2020-01-01")
    assert (done.code, json.loads(done.out)["episodes"]) == (0, 4)
    came = perdure("store", "import", "ep.parquet", "--label", "ourselves")
    assert (came.code, json.loads(came.out)["episodes"], json.loads(came.out)["new"]) == (0, 6, True)
    again = perdure("store", "import", "ep.parquet")
    assert (again.code, json.loads(again.out)["new"]) == (0, False)
    assert json.loads(perdure("store", "check").out)["findings"] == []


@pytest.mark.parametrize(
    "wrong",
    [
        ("export", "--out", "nowhere/e.parquet"),
        ("export", "--out", "e.parquet", "--env", "perdure:unknown"),
        ("export", "--out", "e.parquet", "--version", "v77"),
        ("export", "--out", "e.parquet", "--since", "yesterday"),
        ("export", "--out", "e.parquet", "--since", "2099-01-01"),
        ("export", "--format", "csv", "--out", "e.csv"),
        ("export",),
        ("backup", "."),
        ("import", "nothing.jsonl"),
        ("import", "bad.jsonl"),
        ("import", "good.jsonl", "--label", " "),
        ("prune", "--keep-days", "1", "--keep-episodes", "1"),
        ("prune", "--keep-episodes", "-1"),
    ],
    ids=" ".join,
)
def test_wrong_use_is_exit_code_2_in_one_line(perdure: Call, full: Path, wrong: tuple[str, ...]) -> None:
    Path("bad.jsonl").write_text('{"environment": "e", "turns": []}\n')
    Path("good.jsonl").write_text('{"environment": "e", "turns": [{"observation": "a", "action": "b"}]}\n')
    done = perdure("store", *wrong)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err


def test_prune_archives_and_says_where(perdure: Call, full: Path) -> None:
    dry = json.loads(perdure("store", "prune", "--dry-run", "--keep-days", "0").out)
    assert (dry["episodes"], dry["archives"]) == (9, [])
    assert not (full / "archive").exists()
    assert json.loads(perdure("store", "prune").out)["episodes"] == 0, "all are younger than 30 days"
    done = json.loads(perdure("store", "prune", "--keep-episodes", "0").out)
    assert (done["episodes"], done["kept"]) == (9, 3)
    assert pq.read_table(done["archives"][0]).num_rows == 9
    assert json.loads(perdure("store", "check").out)["findings"] == []


def test_prune_needs_the_home_to_itself_and_its_plan_does_not(perdure: Call, full: Path) -> None:
    with HomeLock(full):
        assert perdure("store", "prune", "--dry-run").code == 0
        done = perdure("store", "prune")
    assert done.code == 2
    assert "is in use by process" in done.err


@pytest.mark.parametrize("command", [("check",), ("backup", "b.db"), ("export", "--out", "e"), ("prune",), ("prune", "--dry-run")])
def test_a_home_without_a_store_is_said_and_not_made(perdure: Call, tmp_path: Path, command: tuple[str, ...]) -> None:
    done = perdure("store", *command)
    assert done.code == 2
    assert "no store in" in done.err
    assert not (tmp_path / ".perdure").exists()


def test_importing_makes_a_home(perdure: Call, tmp_path: Path) -> None:
    Path("t.jsonl").write_text('{"environment": "e", "turns": [{"observation": "a", "action": "b"}]}\n')
    assert perdure("store", "import", "t.jsonl").code == 0
    assert (tmp_path / ".perdure" / "perdure.db").is_file()


DAEMON = """
import itertools, os, sys
from pathlib import Path
from perdure.agent.home import HomeLock
from perdure.memory.trajectories.journal import StoreJournal
from perdure.memory.leases import BootClock
from perdure.memory.records import Ending, EpisodePlan, Turn, VersionRef
from perdure.memory.store import checkpoint, create_store
from perdure.memory.tasks import add_tasks, finish_task, lease_tasks

home, environment = Path(sys.argv[1]), sys.argv[2]
with HomeLock(home), create_store(home) as store:
    for n in itertools.count():
        add_tasks(store, environment, [n], 8, "stream")
        ((task, lease),) = lease_tasks(store, "actor", 1, 60.0, BootClock())
        journal = StoreJournal(store, BootClock())
        plans = [EpisodePlan(environment=environment, seed=n, group=f"task-{task.id}", member=member, purpose="live",
                             sampler=VersionRef("v0"), temperature=1.0, lease=lease) for member in range(8)]
        ids = journal.start(plans)
        prompt = tuple(range(200))
        for k in range(3):
            turn = Turn(prompt_ids=prompt, action_ids=(n % 1000, k), logprobs=(-0.5, -1.0), observation="o" * 500, action=str(n),
                        reward=float(k == 2), sampler=VersionRef("v0"), finish="stop")
            journal.turns([(episode, k, turn) for episode in ids])
            prompt += turn.action_ids + (7,)
        journal.finish([Ending(episode=episode, state="completed", stop_reason="terminated", total_reward=1.0, success=True, score=1.0)
                        for episode in ids])
        finish_task(store, lease)
        if n % 20 == 0:
            checkpoint(store)
        print(ids[-1], flush=True)
"""


@pytest.mark.processes
def test_all_but_pruning_works_beside_a_daemon_that_writes(perdure: Call, tmp_path: Path) -> None:
    home = tmp_path / ".perdure"
    with create_store(home) as store:
        environments.register(store, ADD)
        versions.add_initial(store, "tiny", "hash-of-tiny")
        path, digest = adapter(home, "v1")
        versions.add_candidate(store, None, "v1", "v0", digest, path, [ADD], None)
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, str(home), ADD], stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None
    try:
        acknowledged = 0
        while acknowledged < 400:
            acknowledged = int(daemon.stdout.readline())
        assert perdure("store", "prune").code == 2
        for command in (
            ("backup", "b.db"),
            ("export", "--out", "e.parquet"),
            ("export", "--format", "jsonl", "--out", "e.jsonl"),
            ("check",),
        ):
            done = perdure("store", *command)
            assert done.code == 0, (command, done.out, done.err)
        assert daemon.poll() is None
        before = acknowledged
        deadline = time.monotonic() + 30
        while acknowledged <= before and time.monotonic() < deadline:
            acknowledged = int(daemon.stdout.readline())
        assert acknowledged > before, "it goes on"
    finally:
        daemon.kill()
        daemon.stdout.close()
        daemon.wait(timeout=30)
    (tmp_path / "restored").mkdir()
    shutil.copyfile("b.db", tmp_path / "restored" / "perdure.db")
    shutil.copytree("b.db.versions", tmp_path / "restored" / "versions")
    with create_store(tmp_path / "restored") as restored:
        assert counts(restored)["episodes"] >= 400
        assert restored.rows("SELECT count(*) FROM episode WHERE state = 'completed' AND turns <> 3")[0][0] == 0
        end_all_leases(restored)
        restored.rows("UPDATE task SET state = 'queued', owner = NULL WHERE state = 'leased'")
        abort_orphans(restored)
    assert json.loads(perdure("store", "check", "--home", "restored").out)["findings"] == []
    exported = [row["turns"] for row in pq.read_table("e.parquet").to_pylist()]
    assert len(exported) >= 400
    assert all([len(turn["prompt_ids"]) for turn in turns] == [200, 203, 206] for turns in exported)
    assert len(Path("e.jsonl").read_text().splitlines()) >= 400


def test_traces_of_an_agent_come_in_by_their_form(perdure: Call, home: Path) -> None:
    golden = Path(__file__).resolve().parents[2] / "memory" / "golden"
    came = json.loads(perdure("store", "import", str(golden / "openai.jsonl"), "--form", "openai", "--label", "agent").out)
    assert (came["label"], came["episodes"], came["turns"]) == ("agent", 6, 9)
    said = perdure("store", "import", str(golden / "sharegpt.json"), "--form", "sharegpt", "--table").out
    assert said == "Batch 2 (sharegpt): 4 episodes, 7 turns.\nPassed over: source (1).\n"
    wrong = perdure("store", "import", str(golden / "atif.json"), "--form", "openai")
    assert wrong.code == 2
    assert "atif.json, row 1, messages: is missing: a row is {'messages': [...]}, with 'tools' if there are any" in wrong.err
    lines = perdure("store", "import", str(golden / "atif.json"))
    assert lines.code == 2
    assert "is not JSON" in lines.err
