"""After thirty good cycles a bad candidate is offered: how often is it promoted? The question that frozen anchors answered with .9.

The candidate gains 50 points in an environment that is new on the stream, so that only what it loses can stop it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from random import Random
from statistics import fmean

from perdure.agent.studies.lives.conditions import EIGHT
from perdure.agent.studies.lives.simulated_gate import gate
from perdure.agent.studies.lives.simulated_home import SimulatedHome, begin_look
from perdure.agent.studies.lives.simulated_life import live
from perdure.agent.studies.lives.skill_model import JobEffects, LifeModel, SimulatedEnvironment
from perdure.memory.json_value import Document

GOOD_LOOKS = 30
NEW = SimulatedEnvironment(name="new", start=0.2, since=GOOD_LOOKS)
MODEL = LifeModel(environments=(*EIGHT, NEW), effects=JobEffects(gain=0.15))

OFFERS: Mapping[str, tuple[float, float]] = {
    "10 points everywhere": (0.10, 0.0),
    "20 points everywhere": (0.20, 0.0),
    "30 points in one place": (0.0, 0.30),
    "50 points in one place": (0.0, 0.50),
    "70 points in one place": (0.0, 0.70),
}
"""What each candidate loses against the serving version: everywhere, and in the environment that has gained most."""
MOST_PROMOTED = 0.12


def offered(seed: int, q: float | None) -> Iterator[Document]:
    """One life of good cycles, and what becomes of each offer in it."""
    rng = Random(f"offers {q} {seed}")
    home, counts = live(replace(MODEL, q=q), GOOD_LOOKS, rng)
    home.look = GOOD_LOOKS
    begin_look(home)
    known = [one.name for one in EIGHT]
    above = {name: home.success(home.serving, name) - home.success(home.anchors[name], name) for name in known}
    gained = max(known, key=lambda name: home.success(home.serving, name) - home.skills["v0"][name])
    for name, (everywhere, in_one) in OFFERS.items():
        yield {
            "offer": name,
            "promoted": _promoted(deepcopy(home), gained, everywhere, in_one),
            "promotions_before": len(counts.promoted_at),
            "above_anchors": fmean(above.values()),
            "most_above_anchor": max(above.values()),
        }


def _promoted(home: SimulatedHome, gained: str, everywhere: float, in_one: float) -> bool:
    """Whether a candidate with these losses is promoted."""
    skills = dict(home.skills[home.serving])
    for name in skills:
        loss = everywhere + (in_one if name == gained else 0.0)
        skills[name] = min(1.0, skills[name] + 0.5) if name == NEW.name else max(0.0, skills[name] - loss)
    candidate = f"v{len(home.skills)}"
    home.skills[candidate] = skills
    return gate(home, candidate, (NEW.name,), len(home.jobs) + 1).verdict == "promote"
