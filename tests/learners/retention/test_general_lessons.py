"""General prompts: what comes with Perdure, which of them an update answers, and what the answers do to the weights."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from tests.learners.conftest import MakeJob, plain_logprobs, plain_model, plain_of
from tests.learners.home import EASY, Learner

from perdure.envs.policy import Ids, Message, Request
from perdure.learners.batches import GENERAL, Lesson
from perdure.learners.learning_job import Interrupted, LearningJob
from perdure.learners.option_parsing import parse_options
from perdure.learners.panel.panel_items import Passage, load_panel
from perdure.learners.retention.general.general_lessons import MOST_TOKENS, general_lessons, general_numbers
from perdure.learners.retention.general.general_prompts import general_prompts, in_turn
from perdure.learners.sampling.batch_environments import old_group_numbers
from perdure.learners.sampling.batch_sampling import Sampled
from perdure.learners.updating import update
from perdure.memory.environments import list_environments
from perdure.memory.errors import InputError
from perdure.memory.records import VersionRef

NOTHING = Sampled(target=[], old=[], spoilt=0, staleness=None)
HALF = {"prompts": 8, "samples": 4, "replay": 0.5, "general": 0.5}
"""Of 32 episodes of a batch 16 are replay, and 8 of these are answers to general prompts."""
BASE = VersionRef("v0")


def test_128_prompts_of_sixteen_kinds_come_with_it() -> None:
    prompts = general_prompts()
    assert len({one.id for one in prompts}) == len({one.prompt for one in prompts}) == 128
    assert set(Counter(one.id.rpartition("-")[0] for one in prompts).values()) == {8}
    assert all(0 < len(one.prompt.split()) <= 40 for one in prompts)


def test_no_general_prompt_is_asked_by_the_panel(tmp_path: Path) -> None:
    """Else the panel would measure what was learned by heart. Alike: most of the words of either are in the other."""
    asked = {item.text if isinstance(item, Passage) else item.prompt for skill in load_panel(tmp_path) for item in skill.items}
    words = {text: set(re.findall(r"\w+", text.casefold())) for text in asked}
    for one in general_prompts():
        own = set(re.findall(r"\w+", one.prompt.casefold()))
        alike = [text for text, others in words.items() if 2 * len(own & others) / (len(own) + len(others)) > 0.7]
        assert alike == [], one.prompt


def test_all_prompts_are_answered_before_any_comes_again_in_an_order_of_the_seed() -> None:
    first, second = in_turn(range(128), 5), in_turn(range(128, 256), 5)
    assert set(first) == set(second) == set(general_prompts())
    assert first != second
    assert in_turn(range(3, 130), 5) == [*first[3:], *second[:2]]
    assert in_turn(range(128), 6) != first


def test_the_share_of_replay_adds_up_over_updates(make_job: MakeJob) -> None:
    """4 prompts x 4 samples, half of them replay: 8 episodes; .3 of them are 2.4 an update, and the rest is 1.4 groups of old ones."""
    options = parse_options("grpo", {"prompts": 4, "samples": 4, "replay": 0.5, "general": 0.3})
    numbers = [general_numbers(options, step) for step in range(10)]
    assert [n for each in numbers for n in each] == list(range(24))
    assert {len(each) for each in numbers} == {2, 3}
    assert general_numbers(parse_options("grpo", {}), 0) == range(0)
    job = make_job(prompts=4, samples=4, replay=0.5, replay_samples=4, general=0.3)
    groups = []
    for _ in range(10):
        groups.append(len(old_group_numbers(job, 4, 1.0)))
        job.progress.step += 1
    assert sum(groups) == 14


def test_own_answers_have_the_kl_term_alone(make_job: MakeJob) -> None:
    job = make_job(**HALF, kl_old=0.7)
    lessons = general_lessons(job)
    assert 0 < len(lessons) <= 8
    assert {(one.environment, one.of_target, one.episode, one.advantage, one.imitation, one.kl) for one in lessons} == {
        (GENERAL, False, None, 0.0, 0.0, 0.7)
    }
    assert max(one.tokens for one in lessons) <= MOST_TOKENS
    assert job.tally.sampled_tokens == sum(one.tokens for one in lessons)
    assert job.tally.sampling_s > 0
    asked = {job.engine.chat.prompt([Message(role="user", text=one.prompt)]) for one in in_turn(range(8), job.options.common.seed)}
    assert {prompt for one in lessons for prompt, _ in one.turns} == {ids for ids in asked if len(ids) + MOST_TOKENS <= job.context_limit}
    with torch.no_grad():
        expected = torch.cat([plain_logprobs(plain_of(job.trainee), *turn, 0.7) for one in lessons for turn in one.turns])
    torch.testing.assert_close(torch.tensor([logp for one in lessons for logp in one.sampler_logprobs or ()]), expected, atol=1e-3, rtol=0)
    assert [one.turns for one in general_lessons(job)] == [one.turns for one in lessons], "a resumed job answers as it would have"
    job.progress.step += 1
    job.engine.load(job.sampler, job.trainee.weights())
    assert {one.turns[0][0] for one in general_lessons(job)}.isdisjoint(one.turns[0][0] for one in lessons)


@pytest.mark.parametrize("is_loaded", [True, False])
def test_the_base_model_answers_if_asked_and_leaves_the_engine_as_it_was(make_job: MakeJob, is_loaded: bool) -> None:
    """At the least temperature that is allowed nearly all answers begin as the base's greedy ones."""
    job = make_job(**HALF, general_weight=0.6, general_loss="base-answers", temperature=0.01)
    if not is_loaded:
        job.engine.unload(BASE)
    lessons = general_lessons(job)
    assert {(one.environment, one.imitation, one.kl, one.sampler_logprobs) for one in lessons} == {(GENERAL, 0.6, 0.0, None)}
    assert (BASE in job.engine) == is_loaded
    if not is_loaded:
        job.engine.load(BASE, {})
    asked = [Request(prompt_ids=one.turns[0][0], max_tokens=MOST_TOKENS, temperature=0.0) for one in lessons]
    greedy = [sample.action_ids for sample in job.engine.policy(BASE).generate(asked)]
    moved = [sample.action_ids for sample in job.engine.policy(job.sampler).generate(asked)]

    def alike(answers: list[Ids]) -> float:
        return fmean(one[:3] == other[:3] for one, other in zip(answers, greedy, strict=True))

    assert alike([one.turns[0][1] for one in lessons]) > 0.7
    assert alike(moved) < 0.5, "the learner has moved"


@pytest.mark.learning
@pytest.mark.parametrize("general_loss", ["kl", "base-answers"])
def test_updates_on_answers_lead_back_to_the_base(make_job: MakeJob, general_loss: str) -> None:
    """The learner begins away from the base, which serves. The distance is KL(base || learner) on answers that it has not seen."""
    job = make_job(**HALF, general_loss=general_loss, kl_old=1.0, general_weight=1.0, updates=12, lr=0.01, warmup=0, temperature=1.0)
    job.progress.step = 1000
    job.engine.load(job.sampler, job.trainee.weights())
    held_out = general_lessons(job)
    job.progress.step = 0
    before = distance(job, held_out)
    for _ in range(12):
        update(job, general_lessons(job), NOTHING)
    assert distance(job, held_out) < 0.8 * before


def distance(job: LearningJob, lessons: list[Lesson]) -> float:
    base, learner = plain_model(job.trainee.model.files), plain_of(job.trainee)
    found = []
    for (prompt, action), *_ in (one.turns for one in lessons):
        ids = torch.tensor([[*prompt, *action]])
        with torch.no_grad():
            p, q = (model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for model in (base, learner))
        found.append((p.exp() * (p - q)).sum(-1))
    return float(torch.cat(found).mean())


def test_a_stop_ends_the_answering(make_job: MakeJob) -> None:
    with pytest.raises(Interrupted):
        general_lessons(make_job(**HALF, stop=lambda: True))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"replay": 0}, "general is a share of replay, and replay=0"),
        ({"kl_old": 0}, "general_loss=kl has the weight kl_old, which is 0"),
        ({"general_loss": "base-answers", "general_weight": 0}, "has the weight general_weight, which is 0"),
        ({"general_loss": "base"}, "option general_loss='base'"),
        ({"general": 1.5}, "option general=1.5"),
    ],
)
def test_a_share_of_nothing_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_options("grpo", {"general": 0.5, **settings})


@pytest.mark.parametrize("learner", ["grpo", "sft"])
@pytest.mark.parametrize("general_loss", ["kl", "base-answers"])
def test_a_job_learns_with_general_prompts_and_no_environment_is_added(llama_learner: Learner, learner: str, general_loss: str) -> None:
    small: dict[str, Any] = {"updates": 2, "prompts": 4, "samples": 4, "replay_samples": 2, "general": 0.5, "general_loss": general_loss}
    llama_learner.learn(EASY, learner, **small)
    last = llama_learner.steps(1)[-1]
    assert last.grad_norm
    assert (last.kl_loss is not None) == (general_loss == "kl")
    assert {row.name for row in list_environments(llama_learner.store)} == {EASY}
    assert {row["environment"] for row in llama_learner.store.rows("SELECT DISTINCT environment FROM episode")} <= {EASY}
