"""Episodes: a list to choose from, one as a conversation, and one turn of it down to its tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from perdure.agent.web.evidence.episode_reading import episode_facts, turn_texts, turns_that_fit, whole_turn
from perdure.agent.web.evidence.token_texts import TokenTexts, that_fit
from perdure.agent.web.pages.evidence.asked import MOST, MaybeName, MaybeNumber, Number, given
from perdure.agent.web.pages.rendering import page
from perdure.agent.web.stores import AtHome
from perdure.memory.environments import list_environments, require
from perdure.memory.trajectories.episodes import list_episodes
from perdure.memory.trajectories.rewards import sources
from perdure.memory.versions import get_version, list_versions

ON_A_PAGE = 50
MOST_TURNS = 20
"""Of one page of an episode."""
LONGEST = 1500
"""Characters of each text there; the page of the turn has more."""
MOST_CHARACTERS = 200_000
"""Of all texts there, as they are shown: an escape of a control character is ten times as long as that."""
WINDOW = 8_000
"""Characters of each text on the page of a turn."""
MOST_TOKENS = 1000
"""Of the answer, and of the prompt, there."""
MOST_NAMES = 200

Purpose = Literal["", "live", "learn", "hinted", "replay", "gate", "probe"]
Outcome = Literal["", "success", "failure", "running", "aborted", "env_error"]
From = Annotated[int, Query(ge=0, le=MOST)]

router = APIRouter(include_in_schema=False)


@router.get("/episodes")
def episodes(
    request: Request,
    at: AtHome,
    environment: MaybeName = None,
    version: MaybeName = None,
    purpose: Purpose = "",
    outcome: Outcome = "",
    before: MaybeNumber = None,
) -> Response:
    place, player = given(environment), given(version)
    with at.reading() as store:
        if place is not None:
            require(store, place)
        if player is not None:
            get_version(store, player)
        listed = list_episodes(store, place, player, ON_A_PAGE + 1, purpose=purpose or None, outcome=outcome or None, before=before)
        environments = [row.name for row in list_environments(store)]
        versions = [one.name for one in list_versions(store)[:MOST_NAMES]]
    asked = {"environment": place, "version": player, "purpose": purpose or None, "outcome": outcome or None}
    return page(
        request,
        "episodes.html",
        episodes=listed[:ON_A_PAGE],
        next=listed[ON_A_PAGE - 1].id if len(listed) > ON_A_PAGE else None,
        before=before,
        environments=environments,
        versions=versions,
        asked=asked,
        query={name: value for name, value in asked.items() if value is not None},
    )


@router.get("/episodes/{number}")
def episode(request: Request, at: AtHome, number: Number, first: From = 0) -> Response:
    with at.reading() as store:
        facts = episode_facts(store, number)
        turns = turns_that_fit(turn_texts(store, number, first, MOST_TURNS, LONGEST), MOST_CHARACTERS)
        known = sources(store)[:MOST_NAMES] if facts["state"] == "completed" else []
    return page(
        request,
        "episode.html",
        episode=facts,
        turns=turns,
        first=first,
        most=MOST_TURNS,
        sources=known,
    )


@router.get("/episodes/{number}/turns/{n}")
def turn(
    request: Request, at: AtHome, number: Number, n: Number, seen: From = 0, said: From = 0, token: From = 0, prompt: From = 0
) -> Response:
    """Each text and each list of tokens from a place on, so that the page stays small whatever it holds."""
    with at.reading() as store:
        facts = episode_facts(store, number)
        texts = turn_texts(store, number, n, 1, 1)
        whole = whole_turn(store, number, n)
        tokens = TokenTexts(store)
    prompt_ids, part = whole.prompt_ids[prompt : prompt + MOST_TOKENS], slice(token, token + MOST_TOKENS)
    answer = tokens.of_answer(whole.action_ids, whole.action)
    return page(
        request,
        "turn.html",
        episode=facts,
        turn=texts[0],
        window=WINDOW,
        most=MOST_TOKENS,
        places={"seen": seen, "said": said, "token": token, "prompt": prompt},
        texts=[
            ("Observation", "seen", whole.observation[seen : seen + WINDOW], len(whole.observation)),
            ("Answer", "said", whole.action[said : said + WINDOW], len(whole.action)),
        ],
        prompt_ids=prompt_ids,
        prompt_texts=None if answer is None else that_fit(tokens.of_prompt(prompt_ids)),
        prompt_tokens=len(whole.prompt_ids),
        shared=whole.shared,
        ids=whole.action_ids[part],
        logprobs=whole.logprobs[part],
        token_texts=None if answer is None else that_fit(answer[part]),
        action_tokens=len(whole.action_ids),
    )
