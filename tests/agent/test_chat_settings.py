"""The section [chat]: what `perdure doctor` says of a model's template, and the date of a home."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.learners.chat.families import tokenizer_for
from tests.tiny_models import tiny_llama

from perdure.agent.config import Config
from perdure.agent.config_file import load_config
from perdure.agent.doctor import Check, chat_checks
from perdure.agent.processes.open_engine import chat_settings, open_engine
from perdure.memory import environments, jobs, versions
from perdure.memory.contracts.orders import LearnOrder
from perdure.memory.processes import home_began
from perdure.memory.store import create_store

THINKS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'].split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>"
    "{% endif %}{% endif %}{# <answer> </answer> {{ x }} #}"
)
DATED = "{{ strftime_now('%d %b %Y') }}\n"
REWRITES = "{{ messages | length }}" + THINKS


def chat_check(tmp_path: Path, template: str | None, section: str = "") -> Check:
    folder = tiny_llama(tmp_path / "model")
    tokenizer = tokenizer_for(template or THINKS)
    tokenizer.save_pretrained(folder)
    if template is None:
        (folder / "chat_template.jinja").unlink()
    file = tmp_path / "perdure.toml"
    file.write_text(f"model = {json.dumps(str(folder))}\n[chat]\n{section}")
    (check,) = chat_checks(tmp_path / "home", load_config(file))
    return check


def test_doctor_says_what_differs_by_choice(tmp_path: Path) -> None:
    check = chat_check(tmp_path, DATED + THINKS)
    assert check.level == "ok"
    for said in (
        "'keep' leaves them as they were sampled",
        "what follows </think>",
        "do not see <answer>, </answer>",
        "the date: it stays",
    ):
        assert said in check.found


def test_doctor_says_what_was_chosen(tmp_path: Path) -> None:
    section = "thoughts = 'drop'\ntemplate_options = { enable_thinking = false }\nshow_special = ['<answer>', '</answer>']\n"
    check = chat_check(tmp_path, THINKS, section)
    assert (check.level, check.found) == (
        "ok",
        "the tokens that the model's template gives; thoughts = 'drop': each turn is a sequence of its own, made anew from the texts; "
        "the text of an answer is what follows </think>",
    )


@pytest.mark.parametrize(
    ("template", "section", "found"),
    [
        (None, "", "no chat template"),
        (REWRITES, "", "does not keep its prefix"),
        ("{{ raise_exception('only with tools') }}", "", "does not accept a conversation of user: only with tools"),
        (THINKS, "template_options = { enable_thinkin = true }", "did you mean enable_thinking"),
        (THINKS, "show_special = ['<reply>']", "'<reply>', which is no token of its own"),
    ],
)
def test_doctor_refuses_what_an_engine_would(tmp_path: Path, template: str | None, section: str, found: str) -> None:
    check = chat_check(tmp_path, template, section)
    assert check.level == "error"
    assert found in check.found
    assert check.remedy


DOCTOR = """
import sys
from pathlib import Path
from perdure.agent.config_file import load_config
from perdure.agent.doctor import chat_checks
(check,) = chat_checks(Path("home"), load_config(Path("perdure.toml")))
print("transformers" in sys.modules, check.level, check.found)
"""


@pytest.mark.long
@pytest.mark.processes
def test_what_an_engine_has_checked_is_not_checked_again_unless_something_changed(tmp_path: Path) -> None:
    template = tiny_llama(tmp_path / "model") / "chat_template.jinja"
    (tmp_path / "perdure.toml").write_text("model = './model'\n")
    kept, config = tmp_path / "home" / "run" / "chat.json", load_config(tmp_path / "perdure.toml").config

    def doctor() -> str:
        run = subprocess.run([sys.executable, "-c", DOCTOR], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120)
        return run.stdout

    with create_store(tmp_path / "home") as store:
        environments.register(store, "perdure:add")
        anew = doctor()
        assert anew.startswith("True ok the tokens that the model's template gives")
        open_engine(store, config, seed=0, say=lambda line: None)
        assert doctor() == anew.replace("True", "False", 1)
        kept.write_text("{")
        assert doctor() == anew
        open_engine(store, config, seed=0, say=lambda line: None)
    template.write_text(REWRITES)
    assert "does not keep its prefix" in doctor()


def test_a_home_began_with_the_first_thing_in_it(tmp_path: Path) -> None:
    with create_store(tmp_path / "home") as store:
        before = datetime.now(UTC).timestamp()
        assert home_began(store) >= before
        environments.register(store, "perdure:add")
        began = home_began(store)
        versions.add_initial(store, "m", "0" * 64)
        jobs.add_job(store, "k", ["perdure:add"], LearnOrder(learner="grpo", options={}, start=None))
        assert home_began(store) == began
        settings = chat_settings(Config(), began)
        assert settings.date == datetime.fromtimestamp(began, UTC)
        assert (settings.thoughts, dict(settings.template_options), settings.show_special) == ("keep", {}, ())
