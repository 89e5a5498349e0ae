"""A shard that is missing or was changed is named; what does not need it goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.memory.everything import CLOCK
from tests.memory.history.test_archive import NOW, archive, done_task, files, findings, ids, in_database, many, quiet

from perdure.memory.errors import InputError, RuntimeFailure, ShardLost, UnknownError
from perdure.memory.exchange.export import export
from perdure.memory.exchange.import_traces import import_file
from perdure.memory.history.checked_shards import NOTED
from perdure.memory.history.shard_index import begin, shards, turns_ever
from perdure.memory.processes import events
from perdure.memory.store import FILE_NAME, Store, create_store, open_store
from perdure.memory.trajectories.episodes import counts, episodes_by_id, get_episode
from perdure.memory.trajectories.traces import live_traces, recent_groups
from perdure.memory.upkeep.backup import backup
from perdure.memory.upkeep.integrity import check
from perdure.memory.upkeep.prune import Keep, plan, prune

NONE = Keep(episodes=0, live=0)


def remove(file: Path) -> None:
    file.unlink()


def flip(file: Path) -> None:
    """One bit in the middle; size and times of change as they were, as far as a program can set them."""
    seen = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def to_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.fixture
def two(store: Store) -> tuple[list[int], list[int]]:
    """A home with two shards: the episodes of the first, and those of the second."""
    played = many(store, 4)
    archive(store, NOW, quiet, shard_turns=16)
    return played[:16], played[16:]


@pytest.mark.parametrize("damage", [remove, flip, shorten, to_a_folder])
def test_the_shard_is_named_and_the_others_are_read(
    store: Store, two: tuple[list[int], list[int]], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    (lost, kept), file = two, files(store)[0]
    before = episodes_by_id(store, kept)
    damage(file)
    with open_store(store.home) as again:
        with pytest.raises(ShardLost, match=f"turns of episode {lost[0]} cannot be read: the shard history/{file.name} "):
            get_episode(again, lost[0])
        assert episodes_by_id(again, lost + kept) == before
        assert episodes_by_id(again, lost + kept) == before
        told = [event for event in events(again) if event.kind == "lost"]
        assert len(told) == 1, "it is told once"
        assert file.name in told[0].message
        assert {trace.episode.id for trace in live_traces(again, ["perdure:add"], 9)} == set(kept)
        groups = recent_groups(again, "perdure:add", 9)
        assert [[episode.id for episode in group] for group in groups] == [kept[8:], kept[:8]]
        done = export(again, tmp_path / "e.parquet", "parquet")
        assert (done.episodes, done.lost, len(done.lost_shards)) == (16, 16, 1)
        assert pq.read_table(tmp_path / "e.parquet")["id"].to_pylist() == kept
        assert findings(again) == [("error", "history", f"history/{file.name}")]
        assert counts(again) == {"episodes": 32, "turns": 32}, "they are only not there now"


def test_nothing_can_be_exported_if_all_is_lost(store: Store, two: tuple[list[int], list[int]], tmp_path: Path) -> None:
    for file in files(store):
        remove(file)
    with pytest.raises(RuntimeFailure, match="none of the 32 episodes can be exported: the shard history/"):
        export(store, tmp_path / "e.parquet", "parquet")
    assert [*tmp_path.glob("e.*")] == []


def test_a_shard_that_is_put_back_is_read_again(store: Store, two: tuple[list[int], list[int]]) -> None:
    before, file = episodes_by_id(store, two[0]), files(store)[0]
    content = file.read_bytes()
    flip(file)
    assert episodes_by_id(store, two[0]) == []
    file.write_bytes(content)
    assert episodes_by_id(store, two[0]) == before
    assert findings(store) == []


def test_a_digest_is_compared_once_for_each_state_of_a_file(store: Store, two: tuple[list[int], list[int]]) -> None:
    """The note of what was compared may be lost, or be nonsense."""
    noted = store.home / NOTED
    for text in (None, "", "[1]", '{"a": 1}', '{"history/x": ["y"]}'):
        noted.unlink(missing_ok=True)
        if text is not None:
            noted.write_text(text)
        with open_store(store.home) as again:
            assert len(episodes_by_id(again, two[0])) == 16
            assert files(store)[0].name in noted.read_text()
    (store.home / "run").rename(store.home / "elsewhere")
    with open_store(store.home) as again:
        assert len(episodes_by_id(again, two[0])) == 16, "nor need there be a place for it"


def test_what_nobody_knows_is_left_alone(store: Store, two: tuple[list[int], list[int]]) -> None:
    """Only files that this home has said it would write are ever removed."""
    stranger = store.home / "history" / "turns-000000001-000000009-00000000.parquet"
    stranger.write_bytes(b"of a restored home, or by hand")
    place = f"history/{'begun'}.parquet"
    begin(store, place)
    (store.home / place).write_bytes(b"half")
    (store.home / "history" / ".making-x.parquet").write_bytes(b"half")
    warned = {subject for level, rule, subject in findings(store) if level == "warning"}
    assert warned == {f"history/{stranger.name}", place, "history/.making-x.parquet"}
    archive(store, NOW, quiet)
    assert stranger.exists()
    assert sorted((store.home / "history").iterdir()) == sorted([*files(store), stranger])


def test_a_backup_has_the_shards(store: Store, two: tuple[list[int], list[int]], tmp_path: Path) -> None:
    before = episodes_by_id(store, [*two[0], *two[1]])
    begin(store, "history/never-finished.parquet")
    made = backup(store, tmp_path / "b.db")
    assert (made.shards, made.shard_lacks, made.episodes, made.turns) == (2, (), 32, 32)
    copied = {file.name: file.stat().st_ino for file in (tmp_path / "b.db.history").iterdir()}
    assert set(copied) == {file.name for file in files(store)}
    done_task(store, [1.0])
    archive(store, NOW, quiet)
    again = backup(store, tmp_path / "b.db", replace=True)
    assert again.shards == 3
    assert copied.items() <= {file.name: file.stat().st_ino for file in (tmp_path / "b.db.history").iterdir()}.items(), "only new ones"
    restored = tmp_path / "restored"
    restored.mkdir()
    shutil.copyfile(tmp_path / "b.db", restored / FILE_NAME)
    shutil.copytree(tmp_path / "b.db.history", restored / "history")
    with create_store(restored) as other:
        assert episodes_by_id(other, [*two[0], *two[1]]) == before
        assert findings(other) == []


def test_a_backup_says_which_shards_it_lacks(store: Store, two: tuple[list[int], list[int]], tmp_path: Path) -> None:
    first, second = files(store)
    remove(first)
    flip(second)
    made = backup(store, tmp_path / "b.db")
    assert made.shards == 0
    assert [first.name in made.shard_lacks[0], second.name in made.shard_lacks[1]] == [True, True]
    assert [*(tmp_path / "b.db.history").glob("*")] == []


def test_a_backup_replaces_no_other_shard(store: Store, two: tuple[list[int], list[int]], tmp_path: Path) -> None:
    (tmp_path / "b.db.history").mkdir()
    other = tmp_path / "b.db.history" / files(store)[0].name
    other.write_bytes(b"of another home")
    with pytest.raises(InputError, match="exists with other content: name another file, or give --force"):
        backup(store, tmp_path / "b.db")
    assert other.read_bytes() == b"of another home"
    assert backup(store, tmp_path / "b.db", replace=True).shards == 2


def test_what_moved_can_be_pruned(full: Store) -> None:
    archive(full, NOW, quiet)
    before = episodes_by_id(full, ids(full))
    planned = plan(full, NONE)
    done = prune(full, NONE, quiet)
    assert (done.episodes, done.turns, done.kept) == (planned.episodes, planned.turns, planned.kept) == (9, 11, 3)
    (path,) = done.archives
    assert ids(full) == [4, 5, 12]
    assert import_file(full, path, "from the archive").episodes == 6
    assert counts(full) == {"episodes": 3, "turns": 4}
    assert episodes_by_id(full, [12]) == before[-1:]
    (shard,) = shards(full)
    assert (shard.pruned_episodes, shard.pruned_turns, files(full)[0].exists()) == (9, 11, True)
    assert findings(full) == []
    with pytest.raises(UnknownError, match="no episode 3"):
        get_episode(full, 3)


def test_a_shard_of_which_nothing_is_left_goes(store: Store, two: tuple[list[int], list[int]]) -> None:
    newest = done_task(store, [1.0])
    first, second = files(store)
    prune(store, Keep(episodes=17, live=0), quiet)
    assert (first.exists(), second.exists(), [shard.pruned_episodes for shard in shards(store)]) == (False, True, [0])
    prune(store, NONE, quiet)
    assert (ids(store), second.exists(), shards(store)) == (newest, False, [])
    assert [*(store.home / "history").iterdir()] == []
    assert findings(store) == []


def test_turns_are_counted_on_whatever_moves_or_goes(store: Store) -> None:
    """Also if the newest ones have moved, so that SQLite gives their row ids again, and if their shard is gone."""
    wanted = 0
    for n in range(3):
        many(store, 2, turns=2)
        wanted += 32
        assert turns_ever(store) == wanted
        archive(store, NOW if n < 2 else 0.0, quiet, shard_turns=16)
        assert turns_ever(store) == wanted
    done_task(store, [1.0])
    prune(store, NONE, quiet)
    assert [shard.episodes for shard in shards(store)] == []
    assert turns_ever(store) == 97


def test_a_prune_leaves_the_episodes_of_a_lost_shard(store: Store, two: tuple[list[int], list[int]]) -> None:
    done_task(store, [1.0])
    remove(files(store)[0])
    said: list[str] = []
    assert prune(store, NONE, said.append).episodes == 16
    assert ids(store)[:16] == two[0]
    assert any("its episodes stay" in line for line in said)
    assert in_database(store) == ids(store)[16:]


def test_an_index_that_does_not_agree_is_found(store: Store, two: tuple[list[int], list[int]]) -> None:
    store.rows("DELETE FROM shelved WHERE episode = ?", (two[0][0],))
    found = check(store, CLOCK)
    assert ("history", f"history/{files(store)[0].name}") in {(one.rule, one.subject) for one in found}
    assert ("turn-numbers", f"episode {two[0][0]}") in {(one.rule, one.subject) for one in found}


def test_turns_in_both_places_are_found(store: Store, two: tuple[list[int], list[int]]) -> None:
    row = store.rows("SELECT * FROM turn LIMIT 1")
    assert row == []
    store.rows(
        """INSERT INTO turn (episode, n, shared, prompt_ids, action_ids, logprobs, observation, action, reward, finish, version, made_at)
        VALUES (?, 0, 0, x'', x'', x'', '', '', 0, 'stop', 'v0', 1)""",
        (two[0][0],),
    )
    found = [one for one in check(store, CLOCK) if one.rule == "turn-numbers"]
    assert [one.message for one in found] == ["should have 0 turns in the database; it has 1, the last is 0"]
