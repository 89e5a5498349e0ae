from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pytest
from tests.envs import faulty
from tests.envs.faulty import Counting
from tests.fakes import END, ByteChat, ListJournal, ScriptedPolicy

from perdure.envs.environment import Environment
from perdure.envs.playing import Attempt
from perdure.envs.policy import Ids, PolicyError, Request, Sample
from perdure.envs.registry import load_here as load
from perdure.envs.rollout import play
from perdure.memory.errors import InputError, RuntimeFailure
from perdure.memory.records import Episode, Lease, Purpose, StepRef, VersionRef

SERVING = VersionRef("v0")


def attempt(environment: Environment, seed: int = 1, *, purpose: Purpose = "live", member: int = 0) -> Attempt:
    lease = Lease(subject=70 + seed, owner="test", attempt=1)
    return Attempt(environment=environment, seed=seed, group=f"task {seed}", member=member, purpose=purpose, lease=lease)


def add_one(observation: str) -> str:
    return str(int(observation) + 1)


def run(
    attempts: Iterable[Attempt | None], policy: ScriptedPolicy | None = None, *, journal: ListJournal | None = None, **settings: object
) -> list[Episode]:
    values = {"temperature": 1.0, "width": 4, "context_limit": 4096, **settings}
    return play(attempts, policy or ScriptedPolicy(add_one, SERVING), ByteChat(), SERVING, journal or ListJournal(), **values)  # type: ignore[arg-type]


def test_an_episode_is_kept_token_for_token() -> None:
    journal, policy = ListJournal(), ScriptedPolicy(add_one, SERVING)
    [episode] = run([attempt(faulty.environment(Counting), seed=3)], policy, journal=journal)
    assert (episode.state, episode.stop_reason, episode.success, episode.score, episode.total_reward) == (
        "completed",
        "terminated",
        True,
        1,
        1,
    )
    assert (episode.id, episode.environment, episode.seed, episode.group) == (1, "py:tests.envs.faulty:Counting", 3, "task 3")
    assert (episode.task, episode.job, episode.temperature, episode.error) == (73, None, 1.0, None)
    assert [turn.reward for turn in episode.turns] == [0.0, 0.0, 1.0]
    for n, turn in enumerate(episode.turns):
        assert journal.played[1, n] == turn
        assert turn.prompt_ids == policy.batches[n][0].prompt_ids
        assert turn.action == str(int(turn.observation) + 1)
        assert turn.action_ids == (*turn.action.encode(), END)
        assert ByteChat().messages(turn.prompt_ids)[-1].text == turn.observation
        assert (turn.sampler, turn.finish, turn.logprobs) == (SERVING, "stop", (-0.5,) * len(turn.action_ids))
    for before, after in zip(episode.turns, episode.turns[1:], strict=False):
        previous_ids = before.prompt_ids + before.action_ids
        assert after.prompt_ids[: len(previous_ids)] == previous_ids
        assert after.shared == len(previous_ids)


def test_the_prompt_is_instructions_then_examples_then_the_task() -> None:
    policy = ScriptedPolicy(lambda text: "no", SERVING)
    environment = load("perdure:even-odd?shots=2")
    [episode] = run([attempt(environment)], policy)
    texts = [(message.role, message.text) for message in ByteChat().messages(policy.batches[0][0].prompt_ids)]
    (first, answer), (second, other) = environment.examples
    assert texts[0] == ("system", environment.instructions)
    assert texts[1:5] == [("user", first), ("assistant", answer), ("user", second), ("assistant", other)]
    assert texts[5:] == [("user", episode.turns[0].observation)]
    assert policy.batches[0][0].max_tokens == environment.max_tokens


def test_the_template_is_in_the_prompt_and_the_turn_keeps_what_the_environment_said() -> None:
    policy = ScriptedPolicy(lambda text: "no", SERVING)
    [episode] = run([attempt(load("perdure:even-odd?template=Now:+{observation}"))], policy)
    assert ByteChat().messages(policy.batches[0][0].prompt_ids)[-1].text == f"Now: {episode.turns[0].observation}"


def test_an_answer_that_is_no_action_is_kept_with_its_reason() -> None:
    journal = ListJournal()
    answers = iter(["fly", "down", "crawl", "swim"])
    environment = load("gym:FrozenLake-v1?is_slippery=false&invalid_limit=2&invalid_penalty=-0.25")
    [episode] = run([attempt(environment)], ScriptedPolicy(lambda text: next(answers), SERVING), journal=journal)
    reasons = [f"'{word}' does not fit. Reply with only one of left, down, right, up." for word in ("fly", "crawl", "swim")]
    assert [turn.invalid for turn in episode.turns] == [reasons[0], None, *reasons[1:]]
    assert [journal.played[1, n].invalid for n in range(4)] == [reasons[0], None, *reasons[1:]]
    assert episode.turns[1].observation == f"not an action: {reasons[0]}"
    assert [turn.reward for turn in episode.turns] == [-0.25, 0.0, -0.25, 0.0]
    assert (episode.state, episode.stop_reason, episode.success, episode.score) == ("completed", "terminated", False, 0.0)


def test_without_instructions_there_is_no_system_message() -> None:
    policy = ScriptedPolicy(add_one, SERVING)
    run([attempt(faulty.environment(Counting, instructions=""))], policy)
    assert [message.role for message in ByteChat().messages(policy.batches[0][0].prompt_ids)] == ["user"]


def test_all_turns_of_a_batch_are_one_call_and_places_are_filled_again() -> None:
    journal, policy = ListJournal(), ScriptedPolicy(add_one, SERVING)
    one_turn = faulty.environment(faulty.Truncates)
    three_turns = faulty.environment(Counting)
    episodes = run([attempt(three_turns, 1), *(attempt(one_turn, seed) for seed in (2, 3, 4))], policy, journal=journal, width=2)
    assert [len(batch) for batch in policy.batches] == [2, 2, 2]
    assert journal.calls == [
        *(("start", 2), ("turns", 2), ("finish", 1)),
        *(("start", 1), ("turns", 2), ("finish", 1)),
        *(("start", 1), ("turns", 2), ("finish", 2)),
    ]
    assert [episode.seed for episode in episodes] == [1, 2, 3, 4]
    assert [episode.stop_reason for episode in episodes] == ["terminated", "truncated", "truncated", "truncated"]


def test_attempts_are_only_drawn_when_there_is_room() -> None:
    journal = ListJournal()
    ahead: list[int] = []

    def attempts() -> Iterator[Attempt]:
        for seed in range(6):
            ahead.append(seed - len(journal.endings))
            yield attempt(faulty.environment(faulty.Truncates), seed)

    assert len(run(attempts(), journal=journal, width=2)) == 6  # type: ignore[arg-type]
    assert max(ahead) <= 2


def test_members_of_a_group_are_kept_apart() -> None:
    episodes = run([attempt(faulty.environment(Counting), member=member, purpose="learn") for member in range(3)])
    assert [(episode.member, episode.task, episode.job) for episode in episodes] == [(0, None, 71), (1, None, 71), (2, None, 71)]
    assert len({episode.turns[0].prompt_ids for episode in episodes}) == 1


@pytest.mark.parametrize(
    ("kind", "turns"), [(faulty.FailsAtReset, 0), (faulty.FailsAtStep, 1), (faulty.TextReward, 1), (faulty.NanReward, 1)]
)
def test_an_environment_that_fails_is_data_and_the_others_go_on(kind: type[Counting], turns: int) -> None:
    journal = ListJournal()
    failed, fine = run([attempt(faulty.environment(kind)), attempt(faulty.environment(Counting), 2)], journal=journal)
    assert (failed.state, failed.stop_reason, failed.success, len(failed.turns)) == ("env_error", "error", False, turns)
    assert failed.error
    assert fine.success
    assert journal.endings[failed.id].state == "env_error"


def test_an_environment_that_cannot_be_made_is_data() -> None:
    def make() -> Counting:
        raise ImportError("no such module")

    [episode] = run([attempt(faulty.environment(Counting, make=make))])
    assert episode.state == "env_error"
    assert episode.error is not None
    assert episode.error.startswith("being made raised ImportError: no such module at test_rollout.py:")


def test_an_environment_that_never_ends_is_stopped_by_its_turn_limit() -> None:
    [episode] = run([attempt(faulty.environment(faulty.NeverEnds, reward_high=2.0))], ScriptedPolicy(lambda text: "x", SERVING))
    assert (episode.state, episode.stop_reason, len(episode.turns), episode.total_reward) == ("completed", "turn_limit", 5, 1.25)
    assert (episode.success, episode.score) == (True, 0.625)


def test_the_score_is_the_return_in_its_range_if_success_is_not_stated() -> None:
    [episode] = run([attempt(faulty.environment(faulty.Scored))], ScriptedPolicy(lambda text: "0.25", SERVING))
    assert (episode.success, episode.score, episode.total_reward) == (False, 0.25, 0.25)


def test_a_conversation_that_outgrows_the_context_ends() -> None:
    environment = faulty.environment(faulty.NeverEnds, max_tokens=8)
    [episode] = run([attempt(environment)], ScriptedPolicy(lambda text: "x", SERVING), context_limit=40)
    assert (episode.state, episode.stop_reason) == ("completed", "context_limit")
    assert 1 <= len(episode.turns) < 5
    assert all(len(turn.prompt_ids) + 8 <= 40 for turn in episode.turns)


def test_a_first_prompt_that_does_not_fit_is_an_error_of_the_environment() -> None:
    [episode] = run([attempt(faulty.environment(Counting))], context_limit=20)
    assert (episode.state, episode.stop_reason, episode.turns) == ("env_error", "context_limit", ())
    assert "it exceeds 20" in (episode.error or "")


def test_a_cut_answer_is_kept_as_cut() -> None:
    [episode] = run([attempt(faulty.environment(Counting, max_tokens=2))])
    assert (episode.turns[0].finish, len(episode.turns[0].action_ids)) == ("length", 2)


def test_stop_aborts_what_is_in_play_and_begins_nothing_more() -> None:
    journal = ListJournal()
    attempts = [attempt(faulty.environment(Counting), seed) for seed in range(3)]
    episodes = run(attempts, journal=journal, width=2, stop=lambda: len(journal.played) >= 2)
    assert [(episode.state, episode.stop_reason, len(episode.turns)) for episode in episodes] == [("aborted", "interrupted", 1)] * 2
    assert [ending.state for ending in journal.endings.values()] == ["aborted", "aborted"]
    assert not any(episode.success or episode.score for episode in episodes)


class Failing(ScriptedPolicy):
    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        if self.batches:
            raise PolicyError("out of memory")
        return super().generate(requests)


def test_a_policy_that_fails_aborts_the_episodes_and_is_heard() -> None:
    journal = ListJournal()
    with pytest.raises(PolicyError, match="out of memory"):
        run([attempt(faulty.environment(Counting))], Failing(add_one, SERVING), journal=journal)
    assert [(ending.state, ending.error) for ending in journal.endings.values()] == [("aborted", "out of memory")]
    assert len(journal.played) == 1


def test_an_answer_by_another_sampler_is_discarded_loudly() -> None:
    journal = ListJournal()
    with pytest.raises(RuntimeFailure, match="answered as job 1 step 2, not as v0"):
        run([attempt(faulty.environment(Counting))], ScriptedPolicy(add_one, StepRef(1, 2)), journal=journal)
    assert not journal.played
    assert [ending.state for ending in journal.endings.values()] == ["aborted"]


class Malformed(ScriptedPolicy):
    samples: tuple[Sample, ...] = ()

    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        return list(self.samples)


@pytest.mark.parametrize(
    "samples",
    [
        (),
        (Sample(action_ids=(65,), logprobs=(), finish="stop", sampler=SERVING),),
        (Sample(action_ids=(65,), logprobs=(math.nan,), finish="stop", sampler=SERVING),),
    ],
)
def test_answers_out_of_form_are_refused(samples: tuple[Sample, ...]) -> None:
    journal, policy = ListJournal(), Malformed(add_one, SERVING)
    policy.samples = samples
    with pytest.raises(RuntimeFailure):
        run([attempt(faulty.environment(Counting))], policy, journal=journal)
    assert not journal.played


class ForgetfulChat(ByteChat):
    def follow(self, prompt_ids: Ids, action_ids: Ids, observation: str) -> Ids:
        return super().follow(prompt_ids[5:], action_ids, observation)


def test_a_template_that_does_not_keep_its_prefix_is_refused() -> None:
    attempts = [attempt(faulty.environment(Counting))]
    policy, journal = ScriptedPolicy(add_one, SERVING), ListJournal()
    with pytest.raises(RuntimeFailure, match="changes earlier turns"):
        play(attempts, policy, ForgetfulChat(), SERVING, journal, temperature=1.0, width=1, context_limit=999)
    assert [ending.state for ending in journal.endings.values()] == ["aborted"]


class BrokenJournal(ListJournal):
    def turns(self, entries: Sequence[object]) -> None:
        raise RuntimeFailure("the disk is full")


@pytest.mark.parametrize("journal", [ListJournal(), BrokenJournal()])
def test_every_environment_is_closed_whatever_happens(journal: ListJournal) -> None:
    made: list[Counting] = []

    def make() -> Counting:
        made.append(Counting())
        return made[-1]

    attempts = [attempt(faulty.environment(Counting, make=make), seed) for seed in range(3)]
    if isinstance(journal, BrokenJournal):
        with pytest.raises(RuntimeFailure, match="the disk is full"):
            run(attempts, journal=journal)
    else:
        run(attempts, journal=journal)
    assert [env.closed for env in made] == [True, True, True]


def test_each_finished_episode_is_told_after_it_was_written() -> None:
    journal = ListJournal()
    finished: list[int] = []

    def tell(episode: Episode) -> None:
        assert journal.endings[episode.id].state == episode.state
        finished.append(episode.id)

    run([attempt(faulty.environment(Counting), seed) for seed in range(3)], journal=journal, on_finish=tell)
    assert sorted(finished) == [1, 2, 3]


def test_what_was_told_is_not_kept() -> None:
    assert run([attempt(faulty.environment(Counting), seed) for seed in range(3)], on_finish=lambda episode: None) == []


def test_nothing_just_now_is_asked_again_while_anything_is_in_play() -> None:
    journal = ListJournal()

    def drawing() -> Iterator[Attempt | None]:
        for seed in (0, None, 1, None, None, None, None, 2):
            yield None if seed is None else attempt(faulty.environment(Counting), seed)

    assert [episode.seed for episode in run(drawing(), journal=journal)] == [0, 1], "and no more once nothing is"
    assert [rows for name, rows in journal.calls if name == "turns"] == [1, 2, 2, 1]


def test_nothing_to_play_is_nothing_written() -> None:
    journal = ListJournal()
    assert run([], journal=journal) == []
    assert journal.calls == []


def test_a_width_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="width=0"):
        run([attempt(faulty.environment(Counting))], width=0)


def test_answers_of_a_repeatable_episode_are_drawn_from_its_seed() -> None:
    """Each turn has a seed of its own, and the same ones each time; other episodes draw from the engine's chance."""
    asked = []
    for _ in range(2):
        policy = ScriptedPolicy(add_one, SERVING)
        run([replace(attempt(faulty.environment(Counting), seed=3), repeatable=True)], policy)
        asked.append([request.seed for (request,) in policy.batches])
    assert asked[0] == asked[1]
    assert len(set(asked[0])) == len(asked[0]) == 3
    assert all(seed is not None and 0 <= seed < 2**31 for seed in asked[0])
    policy = ScriptedPolicy(add_one, SERVING)
    run([attempt(faulty.environment(Counting), seed=3)], policy)
    assert [request.seed for (request,) in policy.batches] == [None] * 3


@pytest.mark.parametrize("words", ["\ud800", "x" * 10_000, "\x00"])
def test_whatever_an_error_says_can_be_stored(words: str) -> None:
    """Half of a surrogate pair has no UTF-8: the store, and with it the process that plays, would fail of it."""

    class Odd(Counting):
        def step(self, action: str) -> faulty.Stepped:
            raise ValueError(words)

    [episode] = run([attempt(faulty.environment(Odd))])
    assert episode.state == "env_error"
    assert episode.error is not None
    assert len(episode.error.encode()) < 2_010


def test_two_rewards_that_overflow_together_cost_their_own_episode() -> None:
    class Rich(Counting):
        def step(self, action: str) -> faulty.Stepped:
            self.steps += 1
            return "x", 1e308, self.steps == 2, False, {}

    odd, good = run([attempt(faulty.environment(Rich)), attempt(faulty.environment(Counting))])
    assert (odd.state, good.state) == ("env_error", "completed")
