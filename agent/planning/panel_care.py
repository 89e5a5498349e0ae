"""What the capability panel asks of the next learning job.

**General prompts** beside the environments, with cross-entropy on the base model's answers (`GENERAL`), if the serving version has spent
half of a limit against the base model, or the panel has refused a candidate since the last promotion. They bring back what was lost; they
cost time, so they are not always there (docs/measurements.md).

**More weight on KL** to the serving version in old environments (`kl_old`): it doubles if a limit against the base model is broken, and
once more for each candidate that the panel has refused since the last promotion.

Neither ends a life: candidates go as far as the panel holds (`selection/panel_hold.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from perdure.agent.planning.life_so_far import LifeSoFar, since_promotion
from perdure.learners.gate.promotion import lost_on_panel
from perdure.learners.panel.panel_limits import below_base
from perdure.memory.contracts.orders import OptionValue
from perdure.memory.contracts.panel_results import PanelResult, SkillScores
from perdure.memory.contracts.results import GateResult

SPENT_FROM = 0.5
"""The part of a limit against the base model from which general prompts are asked for."""
GENERAL: Mapping[str, OptionValue] = {"general": 0.4, "general_loss": "base-answers", "general_weight": 6.0}
"""The options of the job."""
RAISE = 2.0
MOST_RAISES = 3
"""More would hold the new skill down too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelCare:
    """General prompts, and by how much `kl_old` is multiplied."""

    factor: float = 1.0
    why: str | None = None
    """In words; None if nothing is asked for."""

    @property
    def what(self) -> str:
        """In words, if something is asked for."""
        return "general prompts are asked for" + (f" and kl_old is raised {self.factor:g} times" if self.factor > 1 else "")


NO_CARE = PanelCare()


def panel_care(life: LifeSoFar) -> PanelCare:
    """What the stored scores ask for."""
    if life.panel is None:
        return NO_CARE
    short, near = below_base(life.panel), below_base(life.panel, SPENT_FROM)
    gates = [job.gate for job in since_promotion(life) if job.gate is not None]
    refused = list(dict.fromkeys(gate.candidate for gate in gates if _refused(gate, life.serving)))
    raises = min(MOST_RAISES, bool(short) + len(refused))
    if not near and not refused:
        return NO_CARE
    reasons = [f"{life.serving} is below the base model in {named(near)}"] if near else []
    reasons += [f"the capability panel refused {', '.join(reversed(refused))}"] if refused else []
    return PanelCare(factor=RAISE**raises, why=" and ".join(reasons))


def standing_line(panel: PanelResult, care: PanelCare) -> str:
    """The serving version on the panel, and what follows, in a sentence."""
    short = below_base(panel)
    held = f"{panel.version} holds in every skill what the base model can"
    line = f"{panel.version} is below the base model in {named(short)}" if short else held
    return line if care.why is None else f"{line}; in the next job {care.what}"


def _refused(gate: GateResult, serving: str) -> bool:
    """Whether the panel refused the candidate beside this serving version."""
    return gate.serving == serving and lost_on_panel(gate)


def named(skills: Mapping[str, SkillScores]) -> str:
    """Skills with the version's score and the base model's."""
    return ", ".join(f"{name} ({skill.version:.2f}, base {skill.base:.2f})" for name, skill in skills.items())
