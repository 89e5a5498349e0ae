"""What a home has, one thing at a time, as the documents that commands print with --json and the API answers with."""

from __future__ import annotations

from perdure.agent.show.check_notes import last_checks
from perdure.learners.panel.panel_items import load_panel
from perdure.learners.panel.stored_scores import known_result
from perdure.memory import jobs
from perdure.memory.contracts.panel_json import panel_document
from perdure.memory.contracts.panel_results import Asked
from perdure.memory.environments import anchor_of, list_environments, require
from perdure.memory.errors import UnknownError
from perdure.memory.gates import gates_of, get_gate, pairs_of
from perdure.memory.json_value import Document, iso_utc
from perdure.memory.store import Store
from perdure.memory.trajectories.episodes import get_episode, rates_in
from perdure.memory.trajectories.rewards import rewards_of
from perdure.memory.versions import as_json as version_json
from perdure.memory.versions import get_version, moves, serving


def episode_document(store: Store, episode: int) -> Document:
    """An episode turn by turn: the keys of `perdure episode show --json`. Raises `UnknownError`."""
    played = get_episode(store, episode)
    return {
        "id": played.id,
        "environment": played.environment,
        "seed": played.seed,
        "group": played.group,
        "member": played.member,
        "seat": played.seat,
        "purpose": played.purpose,
        "state": played.state,
        "success": played.success,
        "score": played.score,
        "total_reward": played.total_reward,
        "rewards": rewards_of(store, played.id),
        "stop_reason": played.stop_reason,
        "temperature": played.temperature,
        "task": played.task,
        "job": played.job,
        "error": played.error,
        "code": played.code,
        "instructions": played.instructions,
        "turns": [
            {
                "n": n,
                "observation": turn.observation,
                "action": turn.action,
                "reward": turn.reward,
                "sampler": str(turn.sampler),
                "finish": turn.finish,
                "invalid": turn.invalid,
                "prompt_ids": list(turn.prompt_ids),
                "action_ids": list(turn.action_ids),
                "logprobs": list(turn.logprobs),
            }
            for n, turn in enumerate(played.turns)
        ],
    }


def version_document(store: Store, name: str) -> Document:
    """A version with its gates, and when it served: the keys of `perdure version show --json`. Raises `UnknownError`."""
    record = get_version(store, name)
    return {
        **version_json(record),
        "on_disk": record.path is None or (store.home / record.path).is_dir(),
        "gates": [gate.as_json() for gate in gates_of(store, name)],
        "moves": [move.as_json() for move in moves(store) if name in (move.from_version, move.to_version)],
    }


def job_document(store: Store, number: int) -> Document:
    """What was ordered, and what it led to: the keys of `perdure job show --json`. Raises `UnknownError`."""
    facts = jobs.as_json(jobs.get_job(store, number))
    made = jobs.steps(store, number)
    return facts | {"updates": len(made), "spoilt_episodes": sum(step.update.groups.spoilt_episodes for step in made)}


def gate_document(store: Store, number: int) -> Document:
    """A gate with its evidence, its job, the rounds that it has at most, and how many pairs it has. Raises `UnknownError`."""
    gate = get_gate(store, number)
    return {**gate.as_json(), "job": gate.job, "most_rounds": gate.terms.nmax, "pairs": len(pairs_of(store, number))}


def environment_document(store: Store, name: str) -> Document:
    """An environment of the home, what was measured of it, and how each version did there in live play. Raises `UnknownError`.

    `check` is what `perdure env check` found last; None if it was not run.
    """
    require(store, name)
    (row,) = (row for row in list_environments(store) if row.name == name)
    return {
        **row.as_json(),
        "registered": iso_utc(row.registered),
        "compared_with": anchor_of(store, name),
        "chance": row.chance,
        "oracle": row.oracle,
        "check": last_checks(store).get(name),
        "live": {version: rate.as_json() for version, rate in rates_in(store, name).items()},
    }


def panel_of(store: Store, version: str | None, asked: Asked) -> Document:
    """What is known of a version on the capability panel, by default of the serving one: the keys of `perdure panel --json`.

    Raises `UnknownError` if there is no such version, or if something of it is still to be scored.
    """
    name = get_version(store, version).name if version is not None else serving(store).name
    found = known_result(store, name, load_panel(store.home), asked)
    if found is None:
        raise UnknownError(f"{name} was not scored on the whole capability panel: `perdure panel {name}` does it")
    return panel_document(found)
