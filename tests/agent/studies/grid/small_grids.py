"""Files of small grids for tests: over the built-in environments for what is only planned, over coins and a tiny model for what is run."""

from __future__ import annotations

from pathlib import Path

from tests.tiny_models import tiny_llama

COIN, TAIL = "py:tests.agent.coin:Coin", "py:tests.agent.coin:Coin?side=1"
PLANNED = """
[study]
name = "planned"
kind = "retaining-by-doing"

[grid]
learners = ["sft", "grpo", "trace-sft"]
streams = ["addition"]
seeds = [0, 1, 2]

[options]
updates = 6

[learners.trace-sft]
learner = "trace-sft"
traces_of = "grpo"

[streams.addition]
stages = ["perdure:add?shots=3"]

[measure]
environments = ["perdure:compare?shots=3"]
unseen = ["perdure:even-odd?shots=3"]
checkpoints = [3, 6]
dev_target = 10
dev_others = 10
test = 10

[pilots]
rates = [0.001, 0.002]
seeds = [100]

[[claims]]
first = "sft"
second = "grpo"
more_than = 0.0
"""


def write(folder: Path, text: str, name: str = "grid.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def coin_home(folder: Path) -> str:
    """The `[home]` of a file whose runs take seconds."""
    return "\n".join(
        (
            "[home]",
            f"model = '{tiny_llama(folder / 'model')}'",
            f"sandbox = {{ trusted = ['perdure:', '{COIN}'] }}",
            "play = { members = 4 }",
            "[options]",
            "updates = 4\nprompts = 2\nsamples = 4\nrank = 2\nreplay = 0.0\nkl_old = 0.0\n",
        )
    )


def retaining_coins(folder: Path) -> str:
    """Two arms that learn one coin, with pilots."""
    return f"""
[study]
name = "coins"
kind = "retaining-by-doing"
{coin_home(folder)}
[grid]
learners = ["grpo", "trace-sft"]
streams = ["heads"]
seeds = [0]

[learners.trace-sft]
learner = "trace-sft"
traces_of = "grpo"

[streams.heads]
stages = ["{COIN}"]

[measure]
environments = ["{TAIL}"]
checkpoints = [2, 4]
dev_target = 8
dev_others = 4
test = 8
last = true
keep_weights = true
panel = "off"

[pilots]
rates = [0.001]
seeds = [100]

[match]
least = 0.0
tolerance = 0.0
"""


def stream_coins(folder: Path) -> str:
    """Two stages, with and without a gate, and at once."""
    return f"""
[study]
name = "coin-stream"
kind = "long-stream"
{coin_home(folder)}
[grid]
learners = ["grpo"]
helpers = ["naive", "gated", "joint", "single"]
streams = ["two"]
orders = 2
crossed = false
seeds = [0]

[helpers.naive]
arm = "naive"

[helpers.gated]
arm = "gated"
gate = true

[helpers.joint]
arm = "joint"
at_once = true

[helpers.single]
arm = "single"
from_base = true

[streams.two]
stages = ["{COIN}", "{TAIL}"]

[measure]
checkpoints = [2]
test = 6
live = 2
panel = "off"
"""


def kept_coins(folder: Path) -> str:
    """Two stages with each way to keep old skills, and with live play alone, which plays as much as two updates of two groups take."""
    helpers = {
        "ewc": "ewc = 10.0",
        "gem": "gem = 'gem'",
        "a-gem": "gem = 'a-gem'",
        "lwf": "lwf = 0.3",
        "o-lora": "olora = 0.5",
        "stored": "replay = 0.5, stored = 0.9",
        "live": "from = 'live'",
    }
    text = stream_coins(folder).replace('["naive", "gated", "joint", "single"]', str(list(helpers))).replace("updates = 4", "updates = 2")
    sections = [f"[helpers.{name}]\narm = '{name}'\noptions = {{ {options} }}\n" for name, options in helpers.items()]
    return "\n".join((text.replace("live = 2", "live = 3"), *sections, "live = 4")).replace("orders = 2\ncrossed = false\n", "")
