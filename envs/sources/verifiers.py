"""Tasksets of verifiers (its v1) as text environments, of one turn or of many.

verifiers runs a rollout itself and calls a model when it needs one; an environment here waits for actions. So each episode runs in a
thread of its own: when verifiers 0.4.0 calls its model, over HTTP on loopback, the thread gives out the new messages as an observation and
waits for the action. The other differences:
- The agent is ours (`envs/sources/verifiers_harness.py`): a chat without tools. The taskset's environment, hooks, stops, limits and rewards
  are the package's. Tasksets with several agents, or with tools, are refused.
- A taskset is a list of tasks: the hash of its prompt decides the split of a task, and a seed picks one task of its split.
- The system prompt differs from task to task: it is put before the first observation.
- A rollout that fails is an error of the environment, not a reward of 0.
- Some tasksets use the global generators: these belong to the episode while its thread runs, and it runs only while the episode waits.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from ast import literal_eval
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import islice
from queue import SimpleQueue
from statistics import fmean
from types import ModuleType
from typing import Any

import gymnasium

from perdure.envs.environment import AnyText, Info, ResetResult, StepResult
from perdure.envs.environment_names import Options
from perdure.envs.guarded import describe_error
from perdure.envs.seeds import SPLITS, Split, split_by_content, split_of
from perdure.envs.source_code import code_of, version_of
from perdure.envs.sources.factory import EnvironmentFactory, plain_default
from perdure.envs.sources.packages import does_not_work, imported
from perdure.envs.sources.random_state import Generators
from perdure.memory.errors import InputError, RuntimeFailure, UnknownError

HARNESS = "perdure_asking"
MOST_TASKS = 10_000
"""Of a taskset; some have no end."""
MOST_TURNS = 30
"""For an environment of many turns without a limit of its own."""
STOP_S = 5.0
LARGEST_BYTES = 2**24
OURS = ("id", "task", "system_prompt")
"""Fields of every taskset's configuration that are not options here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a rollout ended: with a reward, or with what went wrong."""

    reward: float = 0.0
    error: str | None = None


def find(id_: str) -> EnvironmentFactory:
    """The taskset of an importable package.

    Raises `UnknownError` if no taskset of that name is installed, and `InputError` with the reason if it cannot be played here.
    """
    library = _library()
    try:
        settings = library.taskset_config_type(id_)
        fields = settings.model_fields
        roles = _roles(id_)
    except ModuleNotFoundError as error:
        raise UnknownError(f"verifiers:{id_}: no taskset of that name can be imported: {error.name} is missing") from error
    except Exception as error:
        raise does_not_work(f"verifiers:{id_}", error) from error
    if len(roles) != 1:
        names = ", ".join(role.name for role in roles)
        raise InputError(f"verifiers:{id_} has several agents ({names}): only tasksets with one agent can be played")
    options = {
        name: None if field.is_required() else plain_default(field.get_default(call_default_factory=True))
        for name, field in fields.items()
        if name not in OURS
    }
    code = ", ".join(filter(None, (code_of(settings.__module__), version_of("verifiers"))))
    return EnvironmentFactory(make=lambda **given: Conversation(id_, given), options=options, code=code)


@dataclass(frozen=True, slots=True, kw_only=True)
class SentMessage:
    """A message that verifiers sends to its model."""

    role: str
    text: str | None
    """None if the message is not text alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRole:
    """An agent of a taskset's environment."""

    name: str
    max_turns: int | None


class Conversation(gymnasium.Env[str, str]):
    """One rollout of a taskset: an observation is the new messages to the model, an action is its reply."""

    observation_space = action_space = AnyText()
    max_tokens = 128

    def __init__(self, id_: str, options: Options) -> None:
        self._id, self._options = id_, repr(options)
        self.turn_limit = _turns(id_)
        _tasks(id_, self._options)
        self._generators = Generators()
        self._rollout: _Rollout | None = None

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> ResetResult:
        super().reset(seed=seed)
        number = int(self.np_random.integers(len(SPLITS["train"]))) if seed is None else seed
        self.close()
        tasks = _tasks(self._id, self._options)[split_of(number)]
        if not tasks:
            raise InputError(f"verifiers:{self._id} has no {split_of(number)} task: it needs more tasks")
        self._generators.seed(number)
        with self._generators:
            self._rollout = _Rollout(_environment(self._id, self._options), tasks[number % len(tasks)])
            news = self._rollout.wait()
        if isinstance(news, Ended):
            raise RuntimeFailure(f"verifiers:{self._id} ended before its first question: {news.error or 'no reason given'}")
        return _observation(news), {}

    def step(self, action: str) -> StepResult:
        if self._rollout is None:
            raise RuntimeError("this episode has ended: call reset() before the next step")
        with self._generators:
            self._rollout.answer(action)
            news = self._rollout.wait()
        if not isinstance(news, Ended):
            return _observation(news), 0.0, False, False, {}
        self.close()
        if news.error is not None:
            raise RuntimeFailure(f"verifiers:{self._id} failed: {news.error}")
        return "", news.reward, True, False, {}

    def close(self) -> None:
        rollout, self._rollout = self._rollout, None
        if rollout is not None:
            rollout.stop()


class _Rollout:
    """A rollout in a thread of its own, which pauses when its model is asked."""

    def __init__(self, environment: Any, task: Any) -> None:
        self._environment, self._task = environment, task
        self._news: SimpleQueue[Sequence[SentMessage] | Ended] = SimpleQueue()
        self._reply: asyncio.Future[str | None] | None = None
        self._stopped = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="verifiers", daemon=True)
        self._thread.start()

    def wait(self) -> Sequence[SentMessage] | Ended:
        """The messages that need a reply, or the end."""
        return self._news.get()

    def answer(self, text: str | None) -> None:
        """Continue the rollout with this reply; None refuses one."""
        reply, self._reply = self._reply, None
        if reply is not None:
            self._loop.call_soon_threadsafe(reply.set_result, text)

    def stop(self) -> None:
        """End it: its model refuses to answer, so that verifiers fails and cleans up. Cancelling would wait for open requests."""
        self._stopped = True
        self.answer(None)
        self._thread.join(STOP_S)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                ended = runner.run(self._play())
            except Exception as error:  # noqa: BLE001 - the episode reports it
                ended = Ended(error=describe_error(error))
        self._news.put(ended)

    async def _play(self) -> Ended:
        library = _library()
        async with _model(self._ask) as url, self._environment.serving():
            client = library.EvalClientConfig(base_url=url, api_key_var="PERDURE_NEEDS_NO_KEY")
            episode = await self._environment.run_episode(self._task, library.ModelContext(model="policy", client=client))
        if not episode.ok:
            errors = [*episode.errors, *(error for trace in episode.traces for error in trace.errors)]
            return Ended(error="; ".join(f"{error.type}: {error.message}" for error in errors) or "no reason given")
        return Ended(reward=fmean(trace.reward for trace in episode.traces))

    async def _ask(self, messages: Sequence[SentMessage]) -> str | None:
        """The policy's reply to the messages after its own last one; None when the rollout has been stopped."""
        if self._stopped:
            return None
        last_own = max((n for n, message in enumerate(messages) if message.role == "assistant"), default=-1)
        reply: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._reply = reply
        self._news.put(messages[last_own + 1 :])
        return await reply


@asynccontextmanager
async def _model(ask: Callable[[Sequence[SentMessage]], Awaitable[str | None]]) -> AsyncIterator[str]:
    """The URL of a model on loopback for verifiers, whose replies are those of `ask`."""
    web = import_module("aiohttp.web")

    async def completions(request: Any) -> Any:
        reply = await ask([_sent(message) for message in (await request.json())["messages"]])
        if reply is None:
            return web.json_response({"error": {"message": "the episode was closed"}}, status=400)
        choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
        return web.json_response({"id": "reply", "object": "chat.completion", "created": 0, "model": "policy", "choices": [choice]})

    app = web.Application(client_max_size=LARGEST_BYTES)
    app.router.add_post("/v1/chat/completions", completions)
    runner = web.AppRunner(app, shutdown_timeout=0.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


def _sent(message: Any) -> SentMessage:
    """A message of the chat protocol."""
    content = message["content"]
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [part["text"] for part in parts if part.get("type") == "text"]
    return SentMessage(role=message["role"], text="\n\n".join(texts) if len(texts) == len(parts) else None)


def _observation(messages: Sequence[SentMessage]) -> str:
    """Messages as one observation. Raises `RuntimeFailure` if one is not text alone."""
    texts = [message.text for message in messages if message.text is not None]
    if len(texts) < len(messages):
        raise RuntimeFailure("a message is not text alone, and only text can be shown")
    return "\n\n".join(texts)


def _roles(id_: str) -> list[AgentRole]:
    library = _library()
    fields = library.env_config_type(id_).model_fields
    agents = {name: field.default for name, field in fields.items() if isinstance(field.default, library.AgentConfig)}
    return [AgentRole(name=name, max_turns=agent.max_turns) for name, agent in agents.items()]


def _turns(id_: str) -> int:
    library = _library()
    if library.environment_class(id_) is library.SingleAgentEnv:
        return 1
    (role,) = _roles(id_)
    return role.max_turns or MOST_TURNS


def _environment(id_: str, options: str) -> Any:
    library = _library()
    (role,) = _roles(id_)
    agent = {"harness": {"id": HARNESS}, "runtime": {"type": "subprocess"}, "max_turns": _turns(id_)}
    return library.load_environment(library.resolve_env_config({"taskset": {"id": id_, **literal_eval(options)}, role.name: agent}))


@cache
def _tasks(id_: str, options: str) -> dict[Split, list[Any]]:
    """The tasks of each split. Raises `InputError` if they cannot be loaded or played."""
    try:
        with Generators():
            taskset = _environment(id_, options).taskset
            tasks = list(islice(taskset, MOST_TASKS))
            tools = [*taskset.toolsets(taskset.config), *(tool for task in tasks[:1] for tool in task.toolsets(task.config))]
    except Exception as error:
        raise does_not_work(f"verifiers:{id_}", error) from error
    if tools:
        raise InputError(f"verifiers:{id_} gives its agent tools: only tasksets without tools can be played")
    by_split: dict[Split, list[Any]] = {split: [] for split in SPLITS}
    for task in tasks:
        by_split[split_by_content(task.data.prompt_text or task.key)].append(task)
    return by_split


@cache
def _library() -> ModuleType:
    library = imported("verifiers", "verifiers.v1")
    sys.modules[HARNESS] = import_module("perdure.envs.sources.verifiers_harness")
    return library
