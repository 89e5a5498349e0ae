"""The README of an exported version: what it is, what it was trained on, and the verdict that promoted it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perdure import __version__
from perdure.agent.show.gate_table import COLUMNS, answers_drawn, findings, gate_rows
from perdure.memory.gates import gates_of, get_gate
from perdure.memory.json_value import iso_utc
from perdure.memory.versions import base_of, get_version, moves

if TYPE_CHECKING:
    from perdure.memory.gates import GateRow
    from perdure.memory.records import Version
    from perdure.memory.store import Store
    from perdure.memory.versions import Move

USE = {
    "peft": "`PeftModel.from_pretrained(base_model, FOLDER)`, or as a LoRA module of a server that has the base model.",
    "merged": "`AutoModelForCausalLM.from_pretrained(FOLDER)`, or any server of safetensors.",
    "gguf": "The `.gguf` file is for llama.cpp and programs that build on it.",
}


def version_card(store: Store, name: str, *, form: str, precision: str, gguf: bool, adapts: str) -> str:
    """The text, in Markdown. `adapts` says in words which layers its adapter changes; empty for a whole model."""
    version = get_version(store, name)
    model, digest = base_of(store, name)
    lines = [f"# {name}", "", f"Made by Perdure {__version__}, exported as {form}{' and GGUF' if gguf else ''}.", ""]
    facts = [
        ("version", f"`{name}`, {version.state}"),
        ("hash", f"`{version.hash}`"),
        ("base model", f"`{model}`, sha256 `{digest}`"),
        ("parent", f"`{version.parent}`" if version.parent else "none: it is the base model itself"),
        ("made", iso_utc(version.created) + (f" by learning job {version.job}" if version.job else "")),
        ("trained on", ", ".join(f"`{target}`" for target in version.targets) or "not known"),
    ]
    if form == "peft":
        facts.append(("adapts", adapts))
    else:
        rounded = "" if precision == "float32" else ": what it answers may differ a little from what Perdure's version answered"
        facts.append(("weights", f"{precision}{rounded}"))
    lines += _table(("", ""), facts)
    lines += ["", "## Verdict", "", *_verdict(store, version), "", "## Use", "", USE[form], *([USE["gguf"]] if gguf else [])]
    return "\n".join(lines) + "\n"


def _verdict(store: Store, version: Version) -> list[str]:
    """The promotion of a version and the gate behind it; what is known if it was never promoted."""
    promoted = [move for move in moves(store) if move.to_version == version.name and move.kind == "promote"]
    if not promoted:
        if version.parent is None:
            return ["It is the base model: nothing promoted it."]
        judged = gates_of(store, version.name)
        said = "; ".join(f"gate {gate.id}: {gate.verdict or 'no verdict yet'}" for gate in judged)
        return [f"**It was never promoted** ({said or 'no gate has judged it'})."]
    move = promoted[-1]
    lines = [f"Promoted on {iso_utc(move.moved)} in place of `{move.from_version}`: {_one_line(move.reason)}"]
    if move.gate is None:
        return [*lines, "", "A person promoted it without a gate."]
    return [*lines, "", *_gate(get_gate(store, move.gate), move)]


def _gate(gate: GateRow, move: Move) -> list[str]:
    result = gate.result
    if result is None:
        return [f"Gate {move.gate} has no evidence in this home."]
    lines = [
        f"Gate {gate.id}: **{result.verdict}**. {_one_line(result.reason)}",
        "",
        f"Profile {result.profile}, {result.rounds} rounds on held-out seeds, {answers_drawn(result.temperature, result.samples)}; "
        f"the probability of a false promotion is at most {result.alpha:g}.",
        "",
        *_table(COLUMNS, [[str("-" if cell is None else cell) for cell in row] for row in gate_rows(result)]),
    ]
    found = findings(result)
    return [*lines, "", *(f"- {_one_line(line)}" for line in found)] if found else lines


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [_row(columns), _row(["---"] * len(columns)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_one_line(cell).replace("|", "\\|") for cell in cells) + " |"


def _one_line(text: str) -> str:
    return " ".join(text.split())
