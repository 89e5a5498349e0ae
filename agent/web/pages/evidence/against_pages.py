"""Two versions on the same held-out seeds: where each is better, and their answers to one seed side by side, down to tokens."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import RedirectResponse, Response

from perdure.agent.web.evidence.answer_parts import answer_parts
from perdure.agent.web.evidence.token_texts import TokenTexts, that_fit
from perdure.agent.web.evidence.version_list import answers_to
from perdure.agent.web.pages.evidence.asked import MaybeName, MaybeNumber, Name, given
from perdure.agent.web.pages.rendering import page
from perdure.agent.web.stores import AtHome
from perdure.agent.web.views.side_by_side import against, answers, same_seed
from perdure.memory.environments import list_environments
from perdure.memory.store import Store
from perdure.memory.versions import get_version

ON_A_PAGE = 100

router = APIRouter(include_in_schema=False)


@router.get("/versions/{a}/against")
def choose(at: AtHome, a: str, other: Name) -> Response:
    """Where the form of a version's page leads to."""
    with at.reading() as store:
        names = [get_version(store, name).name for name in (a, other)]
    return RedirectResponse(f"/versions/{names[0]}/against/{names[1]}", status_code=303)


@router.get("/versions/{a}/against/{b}")
def side_by_side(
    request: Request,
    at: AtHome,
    a: str,
    b: str,
    environment: MaybeName = None,
    seed: MaybeNumber = None,
    a_episode: MaybeNumber = None,
    b_episode: MaybeNumber = None,
    before: MaybeNumber = None,
) -> Response:
    """With a seed, or with two episodes, both answers; else the seeds that both versions played."""
    wanted = given(environment)
    if a_episode is not None and b_episode is not None:
        return _answers(request, at, a, b, (a_episode, b_episode))
    if seed is not None and wanted is not None:
        with at.reading() as store:
            both = same_seed(store, a, b, wanted, seed)
        return _answers(request, at, a, b, (both["a"]["id"], both["b"]["id"]))
    with at.reading() as store:
        found = against(store, a, b, environment=wanted, limit=ON_A_PAGE, before=before)
        states = [get_version(store, name).state for name in (a, b)]
        environments = [row.name for row in list_environments(store)]
    return page(request, "against.html", found=found, states=states, environments=environments, environment=wanted, before=before)


def _answers(request: Request, at: AtHome, a: str, b: str, episodes: tuple[int, int]) -> Response:
    with at.reading() as store:
        both = answers(store, *episodes)
        for name, side in ((a, "a"), (b, "b")):
            _check_player(store, name, both[side]["id"])
        one, other = both["a"], both["b"]
        if (one["environment"], one["seed"]) != (other["environment"], other["seed"]):
            raise HTTPException(404, f"episodes {one['id']} and {other['id']} are not of one seed")
        more = [answers_to(store, name, one["environment"], one["seed"]) for name in (a, b)]
        tokens = TokenTexts(store)
    parts = answer_parts(both, lambda turn: that_fit(tokens.of_answer(turn["action_ids"], turn["action"])))
    return page(request, "answers.html", a=a, b=b, both=both, parts=parts, more=more)


def _check_player(store: Store, version: str, episode: int) -> None:
    if not store.rows("SELECT 1 FROM episode WHERE id = ? AND version = ?", (episode, version)):
        raise HTTPException(404, f"episode {episode} was not played by {version[:64]}")
