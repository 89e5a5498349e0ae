"""How far the stream is, for people and for `--json`."""

from __future__ import annotations

from dataclasses import asdict

from perdure.agent.stream.stage_report import stream_line, stream_report
from perdure.memory.stages import Stage, StageProgress, StageShare

ADD, SORT = "perdure:add", "perdure:sort-numbers"


def test_one_line_says_how_far_the_stream_is() -> None:
    words = Stage(name="words", environments=(StageShare(name=ADD),), members=4, tasks=3)
    last = Stage(name="last", environments=(StageShare(name=ADD), StageShare(name=SORT)), members=8, order="shuffled", curriculum=True)

    def line(*stages: Stage, drawn: int, ended: int) -> str | None:
        return stream_line(stream_report(stages, {("words", ADD): StageProgress(drawn=drawn, ended=ended)}))

    assert line(drawn=0, ended=0) is None
    assert line(words, last, drawn=2, ended=1) == "stage words, 1 of 2, interleaved: 1 of 3 tasks"
    assert line(words, last, drawn=3, ended=1) == "stage last, 2 of 2, shuffled, by a curriculum: 0 tasks, without end"
    assert line(words, drawn=3, ended=1) == "at its end: all stages are drawn, 2 tasks are still to be played"
    assert line(words, drawn=3, ended=3) == "at its end: all stages are played"


def test_a_report_has_the_tasks_of_every_environment_and_of_those_that_a_stage_no_longer_has() -> None:
    words = Stage(name="words", environments=(StageShare(name=ADD, weight=2.0, tasks=3), StageShare(name=SORT)), members=4, tasks=9)
    drawn = {
        ("words", ADD): StageProgress(drawn=3, queued=1, ended=2),
        ("words", "perdure:gone"): StageProgress(drawn=2, ended=1),
        ("other", ADD): StageProgress(drawn=7),
        (None, SORT): StageProgress(drawn=5),
    }
    report = asdict(stream_report([words], drawn))
    assert report["stage"] == "words"
    assert report["stages"] == (
        {
            "name": "words",
            "order": "interleaved",
            "curriculum": False,
            "members": 4,
            "tasks": 9,
            "drawn": 5,
            "queued": 1,
            "ended": 3,
            "environments": {
                ADD: {"weight": 2.0, "tasks": 3, "drawn": 3, "queued": 1, "ended": 2},
                SORT: {"weight": 1.0, "tasks": 0, "drawn": 0, "queued": 0, "ended": 0},
            },
        },
    )
