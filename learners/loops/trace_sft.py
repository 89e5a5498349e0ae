"""SFT on traces: imitates successes in the store from live play, another job or an import, newest first.

Episodes of an RL run are on-policy for that run, and nearly on-policy for a similar model: much of RL's retention at the price of SFT (Chen
et al. 2025, appendix on SFT with RL traces). `traces` chooses live play (`stream`), a job of this home, or an import. `staleness` limits
how far behind the sampling policy may be. Tokens are learned as they were sampled; imported episodes of another model are learned from
their texts. All successes of an import's label are learned, whatever the names of its environments; their staleness is unknown, and
`per_task` applies to those with a seed.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar, cast

from perdure.envs.policy import Ids, Message, ToolCall
from perdure.envs.rollout import opening
from perdure.learners.batches import Lesson, Turns, lesson, sequences_of
from perdure.learners.epochs import imitation_epochs, target_episodes
from perdure.learners.learning_job import LearningJob, fits
from perdure.learners.loops.nothing_to_learn import nothing_to_learn
from perdure.learners.options import ENVIRONMENT, TraceSftOptions
from perdure.learners.reward_source import rewarder
from perdure.memory.errors import InputError
from perdure.memory.json_value import JsonObject
from perdure.memory.processes import record_event
from perdure.memory.trajectories.episodes import episodes_by_id
from perdure.memory.trajectories.traces import ForeignTrace, Trace, foreign_traces, job_traces, live_traces

STREAM = "stream"
IMPORT = "import:"

AnyTrace = TypeVar("AnyTrace")


def trace_sft(job: LearningJob) -> None:
    """Imitate the newest successes.

    Raises `RuntimeFailure` if no trace of the targets is a success, `InputError` or `UnknownError` if no such traces exist.
    """
    own = job.options.of(TraceSftOptions)
    lessons, staleness = _imported(job, own) if own.traces.startswith(IMPORT) else _own(job, own)
    if not lessons:
        raise nothing_to_learn(
            job,
            f"no success among the traces of {own.traces}, at most {job.options.retention.staleness} updates behind; play first, give "
            "other traces, or allow a larger staleness",
        )
    imitation_epochs(job, lessons, own.epochs, data_staleness=staleness)


def _own(job: LearningJob, own: TraceSftOptions) -> tuple[list[Lesson], float | None]:
    """Successes of this home and their mean staleness; a resumed job gets the same ones."""
    store, kl, most_stale = job.run.store, job.options.loss.kl, job.options.retention.staleness
    names = [environment.name for environment in job.environments.targets]
    if job.progress.chosen:
        episodes = reversed(episodes_by_id(store, job.progress.chosen))
        return [lesson(episode, imitation=1.0, kl=kl) for episode in episodes], job.tally.updates[-1].data_staleness
    if own.traces == STREAM:
        traces = live_traces(store, names, most_stale)
    elif own.traces.isdecimal():
        traces = job_traces(store, int(own.traces), names, most_stale)
    else:
        raise InputError(f"traces={own.traces}: give stream, the number of a job, or import:LABEL")
    few = _few(_successes(job, traces), lambda trace: (trace.episode.environment, trace.episode.seed), own.per_task)
    chosen = list(islice(few, target_episodes(job)))
    job.progress.chosen = tuple(trace.episode.id for trace in chosen)
    staleness = statistics.fmean(trace.staleness for trace in chosen) if chosen else None
    return [lesson(trace.episode, imitation=1.0, kl=kl) for trace in chosen], staleness


def _imported(job: LearningJob, own: TraceSftOptions) -> tuple[list[Lesson], None]:
    """Successes of another pipeline, whose staleness is unknown; a resumed job gets the same ones."""
    rewards = job.options.common.rewards
    if rewards != ENVIRONMENT:
        raise InputError(f"rewards={rewards} applies to episodes of this home, not to imported ones: leave it out with traces=import")
    traces = foreign_traces(job.run.store, own.traces.removeprefix(IMPORT))
    if job.progress.chosen:
        known = frozenset(job.progress.chosen)
        return _lessons(job, (trace for trace in traces if trace.id in known)), None
    won = (trace for trace in traces if _won(job, trace))
    few = _few(won, lambda trace: None if trace.seed is None else (trace.environment, trace.seed), own.per_task)
    chosen = list(islice(few, target_episodes(job)))
    job.progress.chosen = tuple(trace.id for trace in chosen)
    return _lessons(job, chosen), None


def _successes(job: LearningJob, traces: Iterable[Trace]) -> Iterator[Trace]:
    """Successful traces, by the rewards that the job learns from."""
    judges = rewarder(job.run.store, job.options.common.rewards)
    for trace in traces:
        [episode] = judges([trace.episode])
        if episode.state == "completed" and episode.success:
            yield replace(trace, episode=episode)


def _few(traces: Iterable[AnyTrace], task_of: Callable[[AnyTrace], Hashable | None], most: int) -> Iterator[AnyTrace]:
    """At most `most` traces of each task; all of unknown tasks."""
    taken: Counter[Hashable] = Counter()
    for trace in traces:
        task = task_of(trace)
        taken[task] += 1
        if task is None or taken[task] <= most:
            yield trace


def _won(job: LearningJob, trace: ForeignTrace) -> bool:
    if trace.success is not None:
        return trace.success
    return trace.total_reward is not None and trace.total_reward >= job.environments.targets[0].threshold


def _lessons(job: LearningJob, traces: Iterable[ForeignTrace]) -> list[Lesson]:
    """Lessons of imported episodes. Answers whose prompt is too long for the model's context are left out, and it is said how many."""
    lessons, too_long, answers = [], 0, 0
    for trace in traces:
        turns = _foreign_turns(job, trace)
        fitting = tuple(turn for turn in turns if fits(job, sequences_of((turn,))))
        too_long, answers = too_long + len(turns) - len(fitting), answers + len(turns)
        if fitting:
            lessons.append(_lesson(job, trace, fitting))
    if too_long:
        left_out = f"{too_long} of {answers} imported answers are left out: with their prompts they exceed the context of "
        record_event(job.run.store, "import", f"job {job.id}", f"{left_out}{job.engine.files.name}, {job.context_limit} tokens")
        if not lessons:
            raise InputError(f"{left_out}{job.engine.files.name}, {job.context_limit} tokens: import shorter traces, or take another model")
    return lessons


def _lesson(job: LearningJob, trace: ForeignTrace, turns: Turns) -> Lesson:
    return Lesson(
        episode=None,
        environment=trace.environment,
        turns=turns,
        sampler_logprobs=None,
        imitation=1.0,
        kl=job.options.loss.kl,
    )


def _foreign_turns(job: LearningJob, trace: ForeignTrace) -> Turns:
    """Its tokens if this model's tokenizer made them, otherwise its texts by the model's own template; targets use their own prompt template.

    Raises `InputError` if it has neither, or if the template cannot write its messages.
    """
    files, chat = job.engine.files, job.engine.chat
    targets = {environment.name: environment for environment in job.environments.targets}
    is_ours = trace.base_hash == files.hash if trace.base_hash else trace.base_model == files.name
    turns: list[tuple[Ids, Ids]] = []
    for n, turn in enumerate(trace.turns):
        if is_ours and turn.prompt_ids and turn.action_ids:
            if max(*turn.prompt_ids, *turn.action_ids, 0) >= job.trainee.vocabulary:
                raise InputError(f"imported episode {trace.id} has a token that {files.name} does not have: its ids are of another model")
            turns.append((turn.prompt_ids, turn.action_ids))
            continue
        if turn.action is None or (turn.messages is None and turn.observation is None):
            raise InputError(
                f"imported episode {trace.id} has a turn with neither texts nor tokens of {files.name}: import it with its texts"
            )
        if turn.messages is not None:
            said = [_message(message) for message in (*turn.messages, turn.answer or {"role": "assistant", "content": turn.action})]
            try:
                turns.append(chat.exchange(said, trace.tools))
            except InputError as error:
                raise InputError(f"imported episode {trace.id}, answer {n + 1}: {error}") from error
            continue
        if n:
            prompt = chat.follow(*turns[-1], turn.observation or "")
        else:
            messages = opening(targets[trace.environment], turn.observation or "") if trace.environment in targets else None
            prompt = chat.prompt(messages or [Message(role="user", text=turn.observation or "")])
        turns.append((prompt, chat.answer(turn.action)))
    return tuple(turns)


def _message(document: JsonObject) -> Message:
    """A stored message (`memory/exchange/conversation.py`) as the chat takes it."""
    calls: list[ToolCall] = []
    for call in cast("list[dict[str, JsonObject]]", document.get("tool_calls") or []):
        number, function = cast("str | None", call.get("id")), call["function"]
        calls.append(ToolCall(name=str(function["name"]), arguments=cast(JsonObject, function["arguments"]), id=number))
    return Message(
        role=cast(Any, document["role"]),
        text=str(document["content"]),
        thought=cast("str | None", document.get("reasoning_content")),
        calls=tuple(calls),
        call_id=cast("str | None", document.get("tool_call_id")),
        name=cast("str | None", document.get("name")),
    )
