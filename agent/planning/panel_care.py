"""What the capability panel asks of the next learning job: more weight on KL to the serving version in old environments (`kl_old`).

The weight doubles if the serving version stands below the base model by more than a limit, and once more for each candidate that the panel
has refused since the last promotion. It never ends a life: the gate refuses only candidates that lose more (`panel_limits.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perdure.agent.planning.life_so_far import LifeSoFar, since_promotion
from perdure.learners.gate.promotion import lost_on_panel
from perdure.learners.panel.panel_limits import below_base
from perdure.memory.contracts.panel_results import PanelResult, SkillScores
from perdure.memory.contracts.results import GateResult

RAISE = 2.0
MOST_RAISES = 3
"""More would hold the new skill down too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelCare:
    """By how much `kl_old` is multiplied, and why."""

    factor: float = 1.0
    why: str | None = None
    """In words; None if nothing is raised."""


def panel_care(life: LifeSoFar) -> PanelCare:
    """What the stored scores ask for."""
    if life.panel is None:
        return PanelCare()
    short = below_base(life.panel)
    gates = [job.gate for job in since_promotion(life) if job.gate is not None]
    refused = list(dict.fromkeys(gate.candidate for gate in gates if _refused(gate, life.serving)))
    raises = min(MOST_RAISES, bool(short) + len(refused))
    if not raises:
        return PanelCare()
    reasons = [f"{life.serving} is below the base model in {named(short)}"] if short else []
    reasons += [f"the capability panel refused {', '.join(reversed(refused))}"] if refused else []
    return PanelCare(factor=RAISE**raises, why=" and ".join(reasons))


def standing_line(panel: PanelResult, care: PanelCare) -> str:
    """The serving version on the panel, and what follows, in a sentence."""
    short = below_base(panel)
    held = f"{panel.version} holds in every skill what the base model can"
    line = f"{panel.version} is below the base model in {named(short)}" if short else held
    return f"{line}; kl_old of the next job is raised {care.factor:g} times" if care.factor > 1 else line


def _refused(gate: GateResult, serving: str) -> bool:
    """Whether the panel refused the candidate beside this serving version."""
    return gate.serving == serving and lost_on_panel(gate)


def named(skills: Mapping[str, SkillScores]) -> str:
    """Skills with the version's score and the base model's."""
    return ", ".join(f"{name} ({skill.version:.2f}, base {skill.base:.2f})" for name, skill in skills.items())
