"""Which step of a learning job becomes its candidate, and when a job ends early. Pure functions of the scores that its checks played.

A *check* plays some dev seeds of every target and of every old environment with the weights of one step, sampled at the learning
temperature. The start (step 0) is checked, then every few updates, and the last step. All checks of a job play the same seeds, so that two
steps are compared seed by seed: how hard the tasks are cancels, and only chance in the answers is left. No gate and no probe plays these
seeds (`envs/seeds.py:check_seed`), so that a gate's evidence stays independent of the choice.

Sixteen sampled episodes are noisy (standard error of a success rate: .12), so every comparison asks how many standard errors it is:

- **Something fell** if the old environments together lost more than `POOL_ERRORS` standard errors against the start, or one of them more
  than `ONE_ERRORS`: with 4 episodes only a fall from 4 of 4 to none. If nothing changed, this happens at 3 to 4 % of checks.
- **The candidate** is the latest step that is at most `TIE_ERRORS` standard error below the best one, among the steps where nothing fell.
  The best of several noisy scores is partly luck, and later steps have learned more; Breiman et al. (1984) choose trees by the same rule.
  Simulated with 16 episodes and four checks after the start: a job that rises from .3 to .8 ends with .79 on average (with .77 if the best
  score decided alone), and one that collapses from .75 to 0 with .75. If something fell at every step, the best sum of the changes on
  targets and old environments decides.
- **A job ends early** if every target is at its ceiling, if the last two checks are both clearly below the best one (`COLLAPSE_ERRORS`), or
  if the last `PATIENCE` checks together are no better than the `PATIENCE` before. Simulated
  with 40 updates: a flat job is called collapsed in 3 % and ended as one that does not improve in 83 %; a job that rises from .3 to .8 is
  ended in 8 %.

Left out: playing (`checking.py`) and keeping weights. It is enough to keep those of the chosen step: with one more check, the choice stays
or becomes the new step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from perdure.memory.contracts.results import Selection, StepScore, StepScores

Scores = tuple[float | None, ...]
"""One score in [0, 1] for each seed of a check, in the order of the seeds; None if the environment failed."""

TIE_ERRORS = 1.0
POOL_ERRORS = 2.0
ONE_ERRORS = 2.5
"""More than for all together, because each of several environments can fall by chance."""
COLLAPSE_ERRORS = 2.5
"""Twice in a row. More than for a fall, because the best of many noisy scores is too high."""
CEILING = 0.9
"""Of (sum of scores + 1) / (episodes + 2), Laplace's estimate: 16 of 16 reach it, 15 of 16 do not, and 7 episodes cannot."""
PATIENCE = 4
"""Checks: 16 updates if every fourth is checked, so that a job of 12 updates never ends for this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCheck:
    """What one check played. All checks of a job have the same environments and seeds."""

    step: int
    """Updates made so far; 0 is the start."""
    targets: Mapping[str, Scores]
    old: Mapping[str, Scores]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A mean difference of scores on the same seeds, and its standard error."""

    mean: float
    error: float


def change(before: Iterable[Scores], after: Iterable[Scores]) -> Change:
    """The mean of `after` - `before` over all seeds that have both scores.

    Agresti and Min (2005) for matched proportions, with differences in place of counts: half a pair is added to each of the four outcomes,
    so that the error is never 0, and without any pair the change is 0 with an error of .5.
    """
    pairs = [pair for two in zip(before, after, strict=True) for pair in zip(*two, strict=True)]
    differences = [y - x for x, y in pairs if x is not None and y is not None]
    n, total = len(differences) + 2, math.fsum(differences)
    squares = math.fsum(difference**2 for difference in differences) + 1
    return Change(mean=total / n, error=math.sqrt(squares - total**2 / n) / n)


def fallen(start: StepCheck, check: StepCheck) -> list[str]:
    """The old environments that fell since the start; all of them if they fell together. Empty if none did."""
    if not start.old:
        return []
    whole = change(start.old.values(), check.old.values())
    if whole.mean < -POOL_ERRORS * whole.error:
        return list(start.old)
    each = {name: change([start.old[name]], [check.old[name]]) for name in start.old}
    return [name for name, one in each.items() if one.mean < -ONE_ERRORS * one.error]


def best_step(checks: Sequence[StepCheck]) -> StepCheck:
    """The check of the step that becomes the candidate. `checks` are those of one job in order: the start, and at least one step."""
    start, *later = checks
    unharmed = [check for check in later if not fallen(start, check)]
    if not unharmed:
        return max(later, key=lambda check: (_gain(start, check) + change(start.old.values(), check.old.values()).mean, check.step))
    best = max(unharmed, key=lambda check: (_gain(start, check), check.step))
    return [check for check in unharmed if not _below(best, check, TIE_ERRORS)][-1]


def is_better_than_start(checks: Sequence[StepCheck]) -> bool:
    """Whether the chosen step gained more than chance would explain (`TIE_ERRORS`), and nothing fell: worth a gate after a failure."""
    if len(checks) < 2:
        return False
    start, best = checks[0], best_step(checks)
    gain = change(start.targets.values(), best.targets.values())
    return gain.mean > TIE_ERRORS * gain.error and not fallen(start, best)


def early_end(checks: Sequence[StepCheck]) -> str | None:
    """Why the job should end after its last check; None if it should go on. The start alone never ends a job."""
    if len(checks) < 2:
        return None
    *before, last = checks
    if all(_laplace(scores) >= CEILING for scores in last.targets.values()):
        return f"the targets reached their ceiling at step {last.step} (score {_score(last):.2f})"
    best = max(before, key=lambda check: _gain(checks[0], check))
    if len(before) > 1 and all(_below(best, check, COLLAPSE_ERRORS) for check in checks[-2:]):
        return f"the targets collapsed: score {_score(best):.2f} at step {best.step}, {_score(last):.2f} at step {last.step}"
    if len(checks) >= 2 * PATIENCE:
        recent, earlier = checks[-PATIENCE:], checks[-2 * PATIENCE : -PATIENCE]
        if math.fsum(_gain(checks[0], check) for check in recent) <= math.fsum(_gain(checks[0], check) for check in earlier):
            return f"the targets have not improved since step {earlier[-1].step} (score {_score(earlier[-1]):.2f}, now {_score(last):.2f})"
    return None


def selection(checks: Sequence[StepCheck], ended_early: str | None = None) -> Selection:
    """The choice with its reason in words, for the result of the job."""
    start, last, chosen = checks[0], checks[-1], best_step(checks)
    gain = f"the targets scored {_score(chosen):.2f} there, {_score(start):.2f} at the start"
    if chosen is last:
        reason = gain
    elif fell := fallen(start, last):
        reason = f"{gain}; at step {last.step} {'the old environments' if len(fell) > 1 else fell[0]} fell"
    else:
        reason = f"{gain} and {_score(last):.2f} at step {last.step}"
    if fallen(start, chosen):
        reason += "; old environments fell at every step that was checked"
    return Selection(
        step=chosen.step,
        reason=reason,
        ended_early=ended_early,
        checks=tuple(StepScores(step=check.step, targets=_means(check.targets), old=_means(check.old)) for check in checks),
    )


def unchecked(step: int, ended_early: str | None = None) -> Selection:
    """The choice of a job without checks: its last step."""
    return Selection(step=step, reason="it is the last step, and none was checked", ended_early=ended_early)


def is_due(step: int, every: int) -> bool:
    """Whether a step is checked, besides the last one. `every` is in updates; 0 turns checks off."""
    return every > 0 and step % every == 0


def old_episodes(target_episodes: int, environments: int) -> int:
    """Episodes of each old environment in a check that plays `target_episodes` of each target: a quarter as many.

    All together are at least as many as those of one target, so that a fall can be seen, and at most four times as many (but one for each
    environment), so that a check stays cheap beside an update.
    """
    if not environments:
        return 0
    wanted = max(target_episodes // 4 * environments, target_episodes)
    return max(1, min(wanted, 4 * target_episodes) // environments)


def _gain(start: StepCheck, check: StepCheck) -> float:
    return change(start.targets.values(), check.targets.values()).mean


def _below(best: StepCheck, check: StepCheck, errors: float) -> bool:
    """Whether the targets of a check are this many standard errors below those of the best one."""
    loss = change(check.targets.values(), best.targets.values())
    return loss.mean > errors * loss.error


def _laplace(scores: Scores) -> float:
    known = [score for score in scores if score is not None]
    return (math.fsum(known) + 1) / (len(known) + 2)


def _score(check: StepCheck) -> float:
    """Mean over the episodes of all targets; 0 if none could be scored."""
    known = [score for scores in check.targets.values() for score in scores if score is not None]
    return fmean(known) if known else 0.0


def _means(scores_of: Mapping[str, Scores]) -> dict[str, StepScore]:
    known = {name: [score for score in scores if score is not None] for name, scores in scores_of.items()}
    return {name: StepScore(score=fmean(scores) if scores else None, episodes=len(scores)) for name, scores in known.items()}
