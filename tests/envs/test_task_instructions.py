"""A task with a system message of its own: in the prompt, in the episode, in the sandbox, in the check."""

from __future__ import annotations

import pytest
from tests.envs import faulty, told
from tests.envs.test_rollout import attempt, run
from tests.fakes import ByteChat, ListJournal, ScriptedPolicy

from perdure.envs.check.rules import check_rule
from perdure.envs.check.sample_episodes import longest_texts, transcript
from perdure.envs.guarded import EnvironmentFault, GuardedEnv, open_episode
from perdure.envs.registry import load, load_here
from perdure.envs.rollout import opening
from perdure.envs.scripted import by_oracle, play_scripted
from perdure.memory.records import VersionRef

NAME = "py:tests.envs.told:Told"
UPPER, LOWER = "Write the letter in upper case.", "Write the letter in lower case."


def test_the_prompt_has_the_system_message_of_the_task_and_the_episode_keeps_it() -> None:
    policy, journal = ScriptedPolicy(lambda text: text.upper(), VersionRef("v0")), ListJournal()
    even, odd = run([attempt(load_here(NAME), 2), attempt(load_here(NAME), 3)], policy, journal=journal)
    systems = [ByteChat().messages(request.prompt_ids)[0] for request in policy.batches[0]]
    assert [(message.role, message.text) for message in systems] == [("system", UPPER), ("system", LOWER)]
    assert (even.instructions, odd.instructions) == (UPPER, None)
    assert (even.success, odd.success) == (True, False)
    assert {id_: ending.instructions for id_, ending in journal.endings.items()} == {even.id: UPPER, odd.id: None}
    assert even.code == odd.code == load_here(NAME).code


def test_examples_stand_between_the_system_message_of_the_task_and_the_task() -> None:
    environment = load_here(f"{NAME}?shots=1")
    roles = [(message.role, message.text) for message in opening(environment, "a", UPPER)]
    ((asked, answered),) = environment.examples
    assert roles == [("system", UPPER), ("user", asked), ("assistant", answered), ("user", "a")]
    assert opening(environment, "a", "")[0].role == "user", "an empty one is none"


@pytest.mark.processes
def test_it_comes_out_of_the_sandbox() -> None:
    environment = load(NAME)
    assert environment.open_remote is not None
    for seed, told_ in ((2, UPPER), (3, None), (4, UPPER)):
        env = open_episode(environment)
        env.reset(seed)
        assert env.instructions == told_
        env.close()
        assert play_scripted(environment, seed, by_oracle) == play_scripted(load_here(NAME), seed, by_oracle)


def test_what_is_no_text_is_a_fault_and_half_of_a_character_is_mended() -> None:
    with pytest.raises(EnvironmentFault, match=r"info\['instructions'\] is of type bytes, not str"):
        GuardedEnv(faulty.environment(told.ToldBytes)).reset(1)
    env = GuardedEnv(faulty.environment(told.ToldHalf))
    env.reset(2)
    assert env.instructions == "Count \ufffd."
    env.reset(3)
    assert env.instructions is None, "the environment's own needs no second copy"


def test_the_check_sees_it() -> None:
    environment = load_here(NAME)
    assert transcript(play_scripted(environment, 2, by_oracle)).startswith(f"instructions '{UPPER}'")
    assert longest_texts(environment)[0] in (UPPER, LOWER)
    assert longest_texts(faulty.environment(told.ToldHalf))[0] == "Count \ufffd."
    assert [finding.message[:12] for finding in check_rule(faulty.environment(told.ToldHalf), "is-plain-text")] == ["observations"]
