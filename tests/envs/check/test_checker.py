from __future__ import annotations

import pytest
from tests.envs import faulty, harmful

from perdure.envs.check.checker import Length, check
from perdure.envs.check.rules import EnvFinding
from perdure.envs.sandbox.sandbox_settings import Sandbox

pytestmark = pytest.mark.processes

LENGTH = Length(tokens=lambda texts: sum(map(len, texts)), limit=1000, exact=True)


def findings(kind: type[faulty.Counting], options: str = "", length: Length = LENGTH) -> list[EnvFinding]:
    return check(f"py:{kind.__module__}:{kind.__name__}{options}", Sandbox(), length)[1]


def rules(kind: type[faulty.Counting], options: str = "") -> dict[str, str]:
    """Rule -> gravest level."""
    return {finding.rule: finding.level for finding in reversed(findings(kind, options))}


def test_a_good_environment_has_no_findings() -> None:
    assert findings(faulty.Counting) == []


def test_an_order_that_differs_from_process_to_process_is_found() -> None:
    assert rules(faulty.HashOrder)["is-the-same-elsewhere"] == "warning", "in the sandbox hashes are fixed"
    assert rules(faulty.ProcessOrder)["is-the-same-elsewhere"] == "error"


def test_what_an_environment_does_outside_itself_is_found() -> None:
    by_message = {finding.message.partition(":")[0]: finding for finding in findings(harmful.Meddles) if finding.rule == "keeps-to-itself"}
    assert list(by_message) == ["it prints, such as 'noise'", "it writes a file", "it connects to the network", "it starts a program"]
    assert {finding.level for finding in by_message.values()} == {"warning"}


def test_a_hang_ends_the_check_with_one_finding() -> None:
    [finding] = findings(faulty.Hangs, "?step_timeout_s=0.2")
    assert (finding.level, finding.rule) == ("error", "runs")
    assert finding.message.startswith("step took longer than 0.2 s (turn 1, answer '1') at faulty.py:")


def test_a_crash_in_one_rule_leaves_the_others() -> None:
    """It crashes only if an answer is very long, which one rule tries."""
    crashed = [finding for finding in findings(harmful.CrashesOnLength) if finding.level == "error"]
    assert [(finding.rule, finding.message) for finding in crashed] == [("has-a-floor", "its process ended with exit code 7")]


def test_one_rule_that_never_ends_is_named_and_leaves_the_others() -> None:
    name = f"py:{harmful.__name__}:{harmful.HangsOnLength.__name__}?step_timeout_s=0.2"
    [finding] = check(name, Sandbox(), LENGTH, rule_s=4.0)[1]
    assert (finding.level, finding.rule) == ("warning", "has-a-floor")
    assert finding.message.startswith("it was not finished in 4 s, so that nothing is known of it")


def test_episodes_longer_than_the_model_reads_are_found() -> None:
    def of(limit: int, exact: bool) -> list[tuple[str, str]]:
        length = Length(tokens=lambda texts: 10 * len(texts), limit=limit, exact=exact)
        return [(one.level, one.message) for one in findings(faulty.Counting, length=length) if one.rule == "fits-the-model"]

    tokens = 10 * (1 + 2 * 3 - 1) + 32
    assert of(2 * tokens, True) == []
    assert of(2 * tokens - 1, True) == [("warning", f"its longest episode has {tokens} tokens; the model can read {2 * tokens - 1}")]
    assert of(tokens - 1, False) == [("error", f"its longest episode has about {tokens} tokens; the model can read {tokens - 1}")]


def test_errors_come_first() -> None:
    levels = [finding.level for finding in findings(faulty.AnythingGoes)]
    assert levels == sorted(levels)
    assert levels[0] == "error"


def test_no_verdict_is_caused_by_our_own_files() -> None:
    from tests.envs.check import test_hack_rules

    assert findings(test_hack_rules.Leaves) == []
    found = findings(test_hack_rules.FailsAtCloseOften)
    assert [(one.level, one.rule) for one in found] == [("warning", "runs")]
