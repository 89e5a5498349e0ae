"""What the verdict of a confirming gate leads to, in the one transaction that also closes the gate and ends its job.

shown there (`finding.py`)    what is done
lost                          the version before serves again, with the evidence as the reason
changed                       the environment is named as changed, and its anchor, dev scores and rates begin anew
nothing                       the watch begins anew; what is expected then includes the scores of this gate
"""

from __future__ import annotations

from perdure.agent.watching.finding import Finding, SideScores, expected_range, judge
from perdure.agent.watching.live_watch import alarm_of, begun_anew
from perdure.memory.contracts.results import GateResult
from perdure.memory.environments import mark_changed
from perdure.memory.processes import record_event
from perdure.memory.store import Store
from perdure.memory.versions import rollback, serving
from perdure.memory.watches import EnvironmentWatch, gated_scores, keep_watches, watches_of_job, write_watch


def conclude(store: Store, job: int, result: GateResult) -> None:
    """Do what the gate of this job leads to. The gate must be closed.

    Nothing follows if another version serves than the one that was watched and gated: the finding would be about the past.
    """
    with store.write():
        rows = watches_of_job(store, job)
        now = serving(store).name
        if not rows or {now} != {result.serving, *(row.version for row in rows)}:
            why = f"{now} serves now" if now != result.serving else "its alarm is over"
            record_event(store, "watch", f"job {job}", f"nothing follows from gate {result.gate} on {result.serving}: {why}")
            return
        findings = {row.environment: _finding(store, row, result) for row in rows}
        lost = [
            f"{alarm_of(row)}; gate {result.gate}: {_why(findings[row.environment], row, result)}"
            for row in rows
            if findings[row.environment].kind == "lost"
        ]
        if lost:
            now = rollback(store, result.candidate, "; ".join(lost)).name
        for row in rows:
            _write_down(store, row, findings[row.environment], result, now)
        if lost:
            keep_watches(store, now, ())


def _finding(store: Store, row: EnvironmentWatch, result: GateResult) -> Finding:
    def side(version: str) -> SideScores:
        known = gated_scores(store, version, row.environment, row.temperature, before=result.gate)
        scores = gated_scores(store, version, row.environment, row.temperature)
        return SideScores(known=known, fresh=scores[len(known) :])

    leg = result.evidence.trained.get(row.environment)
    return judge(loss_shown=leg is not None and leg.state == "passed", serving=side(row.version), former=side(result.candidate))


def _why(finding: Finding, row: EnvironmentWatch, result: GateResult) -> str:
    return finding.why.replace("the serving version", row.version).replace("the version before", result.candidate)


def _write_down(store: Store, row: EnvironmentWatch, finding: Finding, result: GateResult, now: str) -> None:
    """Begin the watch anew, and say why; `now` is the version that serves after this."""
    evidence = f"{alarm_of(row)}; gate {result.gate}: {_why(finding, row, result)}"
    if finding.kind == "changed":
        mark_changed(store, row.environment, result.gate, now)
        record_event(store, "changed", row.environment, f"{evidence}: this environment has changed, and {now} is its anchor from now on")
    elif finding.kind == "nothing":
        record_event(store, "watch", row.version, f"{evidence}: no loss and no change was shown; the watch begins anew")
    scores = gated_scores(store, row.version, row.environment, row.temperature)
    low, high = expected_range(scores) if scores else (row.low, row.high)
    write_watch(store, begun_anew(row, low, high))
