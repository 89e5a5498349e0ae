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
    lines = [
        f"# {len(lives)} {'life' if len(lives) == 1 else 'lives'} of {_time(document['hours'])}",
        "",
        f"`perdure study run life --hours {document['hours']:g} --seeds {len(lives)}` at {', '.join(document['made_by'])}: the daemon on "
        f"{len(names)} environments, beside a naive life (the same jobs without replay and gate) and one joint job on all of them with as "
        f"many updates. Scores are means over {document['tasks']} held-out tasks of each environment, one sampled answer each.",
        "",
        "| seed | start | life | joint job | naive life | life - joint job | promotions | updates | fell in the life | in the naive life |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_row(life) for life in lives),
        "",
        f"Over the seeds: start {_number(over['start'])}, life {_number(over['life'])}, joint job {_number(over['joint'])}, naive life "
        f"{_number(over['naive'])}. An environment *fell* if its best version so far, chosen on one half of the tasks, is better than the "
        "present one on the other half by more than 5 points with the whole interval.",
        "",
        *(f"![{path.stem}]({path.name})" for path in plots),
        "",
    ]
    for life in lives:
        lines += _of_seed(life, names)
    return "\n".join(lines)


def _row(life: Document) -> str:
    verdicts = life["verdicts"]
    cells = (
        life["seed"],
        _number(_mean(life["means"].get(life["served"][0]["version"]))),
        _number(_mean(life["means"].get(life["serves"]))),
        _number(_mean(life.get("joint"))),
        _number(_mean(list(life["naive_means"].values())[-1] if "naive_fell" in life else None)),
        _difference(life.get("life_minus_joint")),
        f"{verdicts.get('promote', 0)} of {sum(verdicts.values())}",
        life["updates"],
        _fallen(life.get("fell")),
        _fallen(life.get("naive_fell")),
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def _of_seed(life: Document, names: Sequence[str]) -> list[str]:
    first, now = life["served"][0]["version"], life["serves"]
    seconds = {name: value for name, value in life["seconds"].items() if "_" not in name}
    lines = [
        f"## Seed {life['seed']}",
        "",
        f"{life['minutes']:.0f} minutes, {life['live_episodes']} live episodes, "
        f"{', '.join(f'{n} {verdict}' for verdict, n in life['verdicts'].items()) or 'no verdict'}. Seconds: "
        + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
        + "."
        + _joint_job(life["joint_job"]),
        "",
        f"| environment | {first} | {now} | best ever | lost since | joint job | naive life | its best | lost since |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        fell, naive = life.get("fell", {}).get(name), life.get("naive_fell", {}).get(name)
        cells = (
            short_name(name),
            _number(life["means"].get(first, {}).get(name)),
            _number(life["means"].get(now, {}).get(name)),
            "-" if fell is None else fell["best"],
            "-" if fell is None else _difference(fell["lost"]),
            _number(life.get("joint", {}).get(name)),
            "-" if naive is None else _number(list(life["naive_means"].values())[-1][name]),
            "-" if naive is None else naive["best"],
            "-" if naive is None else _difference(naive["lost"]),
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| job | minute | targets | candidate | verdict | why |", "|---|---|---|---|---|---|"]
    for job in life["jobs"]:
        minute = "-" if job["ended"] is None else f"{job['ended']:.1f}"
        row = (
            f"{job['id']} {job['kind']}",
            minute,
            ", ".join(map(short_name, job["targets"])),
            job["candidate"] or "-",
            job["verdict"] or "-",
            job["reason"] or "-",
        )
        lines.append("| " + " | ".join(row) + " |")
    return [*lines, ""]


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
