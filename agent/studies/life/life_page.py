"""The short page of a life study, as Markdown with its plots: what stands in docs/results/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from perdure.agent.show.short_names import short_name
from perdure.memory.json_value import Document


def life_page(document: Document, plots: Sequence[Path]) -> str:
    """The page. Every score is of sampled answers to held-out tasks; intervals are of 95 %."""
    lives, names, over = document["lives"], document["environments"], document["over_seeds"]
    beside = any("joint" in life or "naive_fell" in life for life in lives)
    command = f"perdure study run life --hours {document['hours']:g} --seeds {len(lives)}{'' if beside else ' --alone'}"
    others = ", beside a naive life (the same jobs without replay and gate) and one joint job on all of them with as many updates"
    means = f"start {_number(over['start'])}, life {_number(over['life'])}"
    if beside:
        means += f", joint job {_number(over['joint'])}, naive life {_number(over['naive'])}"
    lines = [
        f"# {len(lives)} {'life' if len(lives) == 1 else 'lives'} of {_time(document['hours'])}",
        "",
        f"`{command}` at {', '.join(document['made_by'])}: the daemon on {len(names)} environments{others if beside else ''}. "
        f"Scores are means over {document['tasks']} held-out tasks of each environment, one sampled answer each.",
        "",
        *_table([_of_life(life, beside) for life in lives]),
        "",
        f"Over the seeds: {means}. An environment *fell* if its best version so far, chosen on one half of the tasks, is better than the "
        "present one on the other half by more than 5 points with the whole interval.",
        "",
        *(f"![{path.stem}]({path.name})" for path in plots),
        "",
    ]
    for life in lives:
        lines += _of_seed(life, names, beside)
    return "\n".join(lines)


def _of_life(life: Document, beside: bool) -> Document:
    """Its row in the table of all lives."""
    verdicts = life["verdicts"]
    row = {
        "seed": life["seed"],
        "start": _number(_mean(life["means"].get(life["served"][0]["version"]))),
        "life": _number(_mean(life["means"].get(life["serves"]))),
        "joint job": _number(_mean(life.get("joint"))),
        "naive life": _number(_mean(list(life["naive_means"].values())[-1] if "naive_fell" in life else None)),
        "life - joint job": _difference(life.get("life_minus_joint")),
        "promotions": f"{verdicts.get('promote', 0)} of {sum(verdicts.values())}",
        "updates": life["updates"],
        "fell in the life": _fallen(life.get("fell")),
        "in the naive life": _fallen(life.get("naive_fell")),
    }
    of_others = ("joint job", "naive life", "life - joint job", "in the naive life")
    return row if beside else {head: cell for head, cell in row.items() if head not in of_others}


def _of_seed(life: Document, names: Sequence[str], beside: bool) -> list[str]:
    seconds = {name: value for name, value in life["seconds"].items() if "_" not in name}
    return [
        f"## Seed {life['seed']}",
        "",
        f"{life['minutes']:.0f} minutes, {life['live_episodes']} live episodes, "
        f"{', '.join(f'{n} {verdict}' for verdict, n in life['verdicts'].items()) or 'no verdict'}. Seconds: "
        + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
        + "."
        + _joint_job(life["joint_job"]),
        "",
        *_table([_of_environment(life, name) | (_of_others(life, name) if beside else {}) for name in names]),
        "",
        *_table([_of_job(job) for job in life["jobs"]]),
        "",
    ]


def _of_environment(life: Document, name: str) -> Document:
    """Its row in the table of one life."""
    first, now, fell = life["served"][0]["version"], life["serves"], life.get("fell", {}).get(name)
    return {
        "environment": short_name(name),
        first: _number(life["means"].get(first, {}).get(name)),
        now: _number(life["means"].get(now, {}).get(name)),
        "best ever": "-" if fell is None else fell["best"],
        "lost since": "-" if fell is None else _difference(fell["lost"]),
    }


def _of_others(life: Document, name: str) -> Document:
    """The rest of that row: the joint job and the naive life."""
    fell = life.get("naive_fell", {}).get(name)
    return {
        "joint job": _number(life.get("joint", {}).get(name)),
        "naive life": "-" if fell is None else _number(list(life["naive_means"].values())[-1][name]),
        "its best": "-" if fell is None else fell["best"],
        "lost since its best": "-" if fell is None else _difference(fell["lost"]),
    }


def _of_job(job: Document) -> Document:
    return {
        "job": f"{job['id']} {job['kind']}",
        "minute": "-" if job["ended"] is None else f"{job['ended']:.1f}",
        "targets": ", ".join(map(short_name, job["targets"])),
        "candidate": job["candidate"] or "-",
        "verdict": job["verdict"] or "-",
        "why": job["reason"] or "-",
    }


def _table(rows: Sequence[Document]) -> list[str]:
    """As Markdown, with the keys of the first row as its head."""
    if not rows:
        return []
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return [f"| {' | '.join(map(str, cells))} |" for cells in lines]


def _joint_job(job: Document | None) -> str:
    if job is None:
        return ""
    early = f", ended early: {job['ended_early']}" if job.get("ended_early") else ""
    return f" The joint job was to make {job['updates']} updates{early}; the weights after update {job['step']} are its version."


def _fallen(fell: Document | None) -> str:
    if fell is None:
        return "-"
    return ", ".join(short_name(name) for name, one in fell.items() if one["fell"]) or "none"


def _difference(found: Document | None) -> str:
    return "-" if found is None else f"{found['mean']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"


def _mean(means: Document | None) -> float | None:
    return fmean(means.values()) if means else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _time(hours: float) -> str:
    return f"{hours:g} hours" if hours > 1 else "an hour" if hours == 1 else f"{60 * hours:g} minutes"
