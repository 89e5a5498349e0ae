"""The studies that come with Perdure, by name: their cells, and how their results are shown. Each is loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perdure.agent.studies.cells import Finished, Study, done
from perdure.memory.json_value import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySettings:
    """What can be asked for; None for the study's own default."""

    hours: float | None = None
    seeds: int | None = None
    small: bool = False
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyStudy:
    """A study with its settings, ready to run."""

    study: Study
    summarise: Callable[[Finished], Document]
    """From the cells that have ended, those that failed too. Its `ok`, if it has one, is False if a result that must be reached is not."""
    show: Callable[[Document], None]
    plot: Callable[[Document, Path], list[Path]] | None = None
    page: Callable[[Document, Sequence[Path]], str] | None = None
    """Markdown, with its plots."""


def _lives(settings: StudySettings) -> ReadyStudy:
    from perdure.agent.studies.lives.lives_study import LIVES, SMALL_LIVES, lives_study
    from perdure.agent.studies.lives.lives_table import lives_document, lives_page, print_lives
    from perdure.memory.errors import InputError

    if settings.hours is not None:
        raise InputError("--hours is for the study life: simulated lives take no time")
    lives = settings.seeds or (SMALL_LIVES if settings.small else LIVES)
    return ReadyStudy(
        study=lives_study(lives), summarise=lambda finished: lives_document(done(finished)), show=print_lives, page=lives_page
    )


def _life(settings: StudySettings) -> ReadyStudy:
    from perdure.agent.studies.life.life_page import life_page
    from perdure.agent.studies.life.life_plots import plot_life
    from perdure.agent.studies.life.life_study import FULL, SMALL, LifeSize, life_study
    from perdure.agent.studies.life.life_summary import life_summary
    from perdure.agent.studies.life.life_table import print_life

    usual = SMALL if settings.small else FULL
    size = LifeSize(hours=settings.hours or usual.hours, seeds=settings.seeds or usual.seeds, tasks=usual.tasks)
    return ReadyStudy(
        study=life_study(size, beside=not settings.alone),
        summarise=lambda finished: life_summary(done(finished), size),
        show=print_life,
        plot=plot_life,
        page=life_page,
    )


def study_of_file(path: Path) -> ReadyStudy:
    """The study that a TOML file describes. Raises `InputError` if the file is wrong."""
    from perdure.agent.studies.grid.grid_arms import check_grid
    from perdure.agent.studies.grid.grid_file import read_grid_file
    from perdure.agent.studies.grid.grid_table import print_retaining, print_stream
    from perdure.agent.studies.grid.retaining_study import retaining_study
    from perdure.agent.studies.grid.retaining_summary import retaining_summary
    from perdure.agent.studies.grid.stream_study import stream_study, stream_summary

    file = read_grid_file(path)
    check_grid(file)
    if file.study.kind == "long-stream":
        return ReadyStudy(study=stream_study(file), summarise=lambda finished: stream_summary(file, finished), show=print_stream)
    return ReadyStudy(study=retaining_study(file), summarise=lambda finished: retaining_summary(file, finished), show=print_retaining)


def _file_of(name: str) -> Callable[[StudySettings], ReadyStudy]:
    """A study that comes as a file, with a small one beside it."""

    def prepare(settings: StudySettings) -> ReadyStudy:
        from perdure.agent.studies.grid.grid_file import built_in
        from perdure.memory.errors import InputError

        if settings.hours is not None or settings.seeds is not None:
            raise InputError(f"--hours and --seeds are for life and lives: what {name} does is in its file, {built_in(name, small=False)}")
        return study_of_file(built_in(name, small=settings.small))

    return prepare


def _mode_seeking(settings: StudySettings) -> ReadyStudy:
    from perdure.agent.studies.mode_seeking.mode_seeking_page import mode_seeking_page, print_mode_seeking
    from perdure.agent.studies.mode_seeking.mode_seeking_plots import plot_mode_seeking
    from perdure.agent.studies.mode_seeking.mode_seeking_study import SEEDS, SMALL_SEEDS, mode_seeking_study
    from perdure.agent.studies.mode_seeking.mode_seeking_summary import mode_seeking_document
    from perdure.memory.errors import InputError

    if settings.hours is not None:
        raise InputError("--hours is for the study life: mode-seeking takes less than a minute")
    seeds = settings.seeds or (SMALL_SEEDS if settings.small else SEEDS)
    return ReadyStudy(
        study=mode_seeking_study(seeds, small=settings.small),
        summarise=lambda finished: mode_seeking_document(done(finished)),
        show=print_mode_seeking,
        plot=plot_mode_seeking,
        page=mode_seeking_page,
    )


STUDIES: Mapping[str, tuple[str, Callable[[StudySettings], ReadyStudy]]] = {
    "lives": ("homes over fifty jobs, simulated with the real planner and gate: what is kept, what is lost, where it stalls", _lives),
    "life": ("the daemon for some hours on the configured stream, beside a naive life and one joint job", _life),
    "mode-seeking": ("the paper's mixture of two modes, forward and reverse KL, and what its result rests on", _mode_seeking),
    "retaining-by-doing": (
        "what a gain costs elsewhere: learners on and off their own answers, compared at one gain",
        _file_of("retaining-by-doing"),
    ),
    "long-stream": ("stages whose environments leave the stream: naive, with each way to keep old skills, gated", _file_of("long-stream")),
    "general-prompts": (
        "what eight environments cost outside of all of them, and what general prompts keep of it",
        _file_of("general-prompts"),
    ),
    "family": ("the grid of retaining-by-doing on a model of another family", _file_of("family")),
}
"""Each with one line about it."""


def prepare_study(study: str, settings: StudySettings) -> ReadyStudy:
    """The study of this name, or of the TOML file of this path. Raises `InputError` if there is none, or if its file is wrong."""
    from difflib import get_close_matches

    from perdure.memory.errors import InputError

    if settings.alone and study != "life":
        raise InputError("--alone is for the study life: no other one has a naive life and a joint job beside it")
    if study in STUDIES:
        _, prepare = STUDIES[study]
        return prepare(settings)
    if not study.endswith(".toml"):
        near = get_close_matches(study, STUDIES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(STUDIES)}, or name a TOML file"
        raise InputError(f"no study is named {study!r}; {hint}")
    if settings != StudySettings():
        raise InputError("--small, --hours and --seeds are for studies that come with Perdure: a file says itself what is done")
    return study_of_file(Path(study).expanduser())
