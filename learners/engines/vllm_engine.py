"""The vLLM engine: a client of vLLM's own OpenAI-compatible server on this machine, tokens in and tokens out.

An adapter is served under one name from one folder, for ever: vLLM's prefix cache goes by the name, so that a name used twice would answer
with what another adapter has computed. A version is served from its own folder, a step from a scratch folder that goes with it. The server
may die at any time: its adapters are gone then, and are loaded again when it says that it has not got them. A server that
has computed a number that is not finite is not asked again: blocks of its cache that hold one spoil the answers of whoever gets them next,
so that one adapter that has diverged spoils all. Left out: starting and watching the server (`agent/processes/vllm_server.py`), weights
that replace those of the base model, top-p and top-k.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from perdure.envs.policy import PolicyError, Request, Sample
from perdure.learners.engines.chat import TemplateChat
from perdure.learners.engines.engine import require_room
from perdure.learners.engines.transformers_engine import stop_ids
from perdure.learners.engines.vllm_client import Answer, Client, ServerGone, ServerHangs, ask_for_restart, base_name, wait_for_server
from perdure.learners.weights.adapters import write_lora
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.weight_sets import LoraPair, Weights
from perdure.memory.errors import InputError, RuntimeFailure, Unavailable
from perdure.memory.records import Sampler, VersionRef

AT_ONCE = 8
"""Requests under way: those of one batch that differ in their length or temperature."""
NO_JSON = "Out of range float values"
"""What vLLM's server says where a log-prob is NaN, which JSON has not."""
TRIES = 3
"""Times that a server may be lost while it works on one request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What the server was started with, and how long it may take."""

    max_rank: int = 16
    start_s: float = 600.0
    """Until a server answers that was started, also again after its death."""
    answer_s: float = 300.0
    """Until one batch is answered."""
    sleeps: bool = False
    """Whether the server can be put to sleep."""


@dataclass(frozen=True, slots=True)
class Served:
    """Under which name a sampler is served, and from where; the base model has no folder."""

    name: str
    folder: Path | None = None
    scratch: bool = False
    """The folder goes when the sampler is unloaded."""


class NotFinite(ArithmeticError):
    """The server has computed NaN or infinity."""


def silent(line: str) -> None:
    """Nobody wants to know."""


class VllmEngine:
    """Samplers on the vLLM server of a home. `tell` gets a line for each thing that went wrong and was mended.

    Raises `Unavailable` where no server answers in time, `InputError` where it serves another model.
    """

    def __init__(self, files: ModelFiles, home: Path, limits: ServerLimits, tell: Callable[[str], None] = silent) -> None:
        self.files = files
        self._home = home.resolve()
        self._limits = limits
        self._tell = tell
        self._news: deque[str] = deque()
        """What is to be told, by the thread that calls; it comes from several."""
        self._base = base_name(files)
        self._lock = Lock()
        self._lost_s: float | None = None
        """Since when there is no server, on the monotonic clock: no thread waits anew."""
        self._client = wait_for_server(home, limits.start_s)
        self.context_limit = self._context_limit()
        tokenizer = AutoTokenizer.from_pretrained(files.path, trust_remote_code=False)
        self.stop_ids = stop_ids(_eos(files.path), tokenizer.eos_token_id)
        self.chat = TemplateChat(tokenizer, self.stop_ids)
        self._served: dict[Sampler, Served] = {}

    def load(self, sampler: Sampler, weights: Weights) -> None:
        """Serve a sampler from now on. A version's files must stand in its folder.

        Raises `InputError` for weights that vLLM cannot serve or that are not finite, `RuntimeFailure` where it refuses them.
        """
        if sampler in self:
            raise ValueError(f"{sampler} is loaded already")
        pairs = {name: pair for name, pair in weights.items() if isinstance(pair, LoraPair)}
        if len(pairs) < len(weights):
            name = next(name for name in weights if name not in pairs)
            raise InputError(f"{sampler} replaces {name}, and vLLM serves LoRA adapters only: set engine = 'transformers'")
        rank = max((len(pair.down_RI) for pair in pairs.values()), default=0)
        if rank > self._limits.max_rank:
            raise InputError(f"{sampler} has rank {rank}, and the server was started for {self._limits.max_rank}: raise vllm.max_rank")
        if not pairs:
            served = Served(self._base)
        elif isinstance(sampler, VersionRef):
            served = Served(sampler.name, self._home / "versions" / sampler.name)
        else:
            name = f"job-{sampler.job}-step-{sampler.n}-{uuid4().hex[:12]}"
            served = Served(name, self._home / "run" / "steps" / name, scratch=True)
        with self._telling(), _gone_if_it_fails(served):
            if served.scratch and served.folder is not None:
                served.folder.mkdir(parents=True)
                write_lora(served.folder, pairs, self.files)
            self._serve(sampler, served)
        self._served[sampler] = served

    def unload(self, sampler: Sampler) -> None:
        """Forget a sampler. A version stays where it is, since others may sample from it: the server lets go of those used least."""
        served = self._served.pop(sampler)
        if served.scratch and served.folder is not None:
            with suppress(ServerGone, ServerHangs):  # then it has forgotten by itself
                self._client.post("/v1/unload_lora_adapter", {"lora_name": served.name})
            shutil.rmtree(served.folder, ignore_errors=True)

    def __contains__(self, sampler: Sampler) -> bool:
        return sampler in self._served

    def policy(self, sampler: Sampler) -> VllmPolicy:
        """The `Policy` of a loaded sampler."""
        self._require(sampler)
        return VllmPolicy(self, sampler)

    def release_memory(self) -> None:
        """Give the GPU's memory to whoever learns, until the next answer is wanted. Only where the server was started so that it can."""
        if not self._limits.sleeps:
            return
        try:
            answer = self._client.post("/sleep?level=1", {}, self._limits.answer_s)
        except ServerGone:  # then it holds no memory; whoever asks next waits for the one that comes after it
            return
        except ServerHangs as error:
            raise Unavailable(f"vLLM gave {error} when it was to sleep: it hangs, and is started again") from error
        if answer.status != 200:
            raise RuntimeFailure(f"vLLM cannot sleep ({answer.message}): set vllm.sleep = false")

    def close(self) -> None:
        """Let go of the connections; the server goes on."""
        self._client.close()

    def generate(self, sampler: Sampler, requests: Sequence[Request]) -> list[Sample]:
        """Continue each prompt. Raises `PolicyError` where one cannot be answered, `RuntimeFailure` for diverged weights and
        `Unavailable` where the server does not come back in time."""
        self._require(sampler)
        groups: dict[tuple[int, float], list[int]] = {}
        for i, request in enumerate(requests):
            require_room(request, self.context_limit)
            groups.setdefault((request.max_tokens, request.temperature), []).append(i)
        if not groups:
            return []
        samples: dict[int, Sample] = {}
        with self._telling(), ThreadPoolExecutor(min(AT_ONCE, len(groups))) as pool:
            answers = pool.map(lambda batch: self._answer(sampler, [requests[i] for i in batch]), groups.values())
            for batch, found in zip(groups.values(), answers, strict=True):
                samples.update(zip(batch, found, strict=True))
        return [samples[i] for i in range(len(requests))]

    def _answer(self, sampler: Sampler, requests: Sequence[Request]) -> list[Sample]:
        """Answers to requests of one length and temperature. What is not finite may be another's fault: a fresh server tells."""
        for fresh in (False, True):
            client = self._client
            try:
                return self._answer_of(sampler, requests)
            except NotFinite:
                ask_for_restart(self._home, client.server)
                if not fresh:
                    self._reconnect(client, "an answer was not finite", another=True)
        raise RuntimeFailure(f"the log-probs of {sampler} are not finite: its adapter has diverged; learn with a smaller lr")

    def _answer_of(self, sampler: Sampler, requests: Sequence[Request]) -> list[Sample]:
        served = self._require(sampler)
        body = {
            "model": served.name,
            "prompt": [request.prompt_ids for request in requests],
            "max_tokens": requests[0].max_tokens,
            "temperature": requests[0].temperature,
            "top_p": 1.0,
            "top_k": 0,
            "stop_token_ids": sorted(self.stop_ids),
            "ignore_eos": True,  # every token that ends an answer is named above
            "logprobs": 0,  # of the sampled token alone
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,  # nothing is decoded here
        }
        answer = self._post("/v1/completions", body, again=(500, 503))
        if answer.status == 404 and served.folder is not None:
            self._news.append(f"the server has lost {served.name}, as it does when it starts again: loaded it once more")
            self._serve(sampler, served)
            answer = self._post("/v1/completions", body, again=(500, 503))
        if answer.status == 400 and NO_JSON in answer.message:
            raise NotFinite
        if answer.status != 200:
            raise PolicyError(f"vLLM did not answer as {served.name} (status {answer.status}): {answer.message}")
        return samples_of(answer.data, served.name, sampler, requests, self.stop_ids)

    def _serve(self, sampler: Sampler, served: Served) -> None:
        """Have the server load an adapter. One that it has already is as good: the name says what it is."""
        if served.folder is None:
            return
        answer = self._post("/v1/load_lora_adapter", {"lora_name": served.name, "lora_path": str(served.folder)})
        if answer.status != 200 and "already been loaded" not in answer.message:
            raise RuntimeFailure(f"vLLM cannot serve {sampler} (status {answer.status}): {answer.message}")

    def _post(self, path: str, body: Mapping[str, Any], again: Collection[int] = ()) -> Answer:
        """An answer from the server that is there, or from the one that comes after it; asked again at the statuses in `again` too.

        It is the same request each time: what a server that died has sampled has not reached anybody.
        """
        for lost in range(TRIES):
            client = self._client
            try:
                self._wake(client)
                answer = client.post(path, body, self._limits.answer_s)
            except ServerGone as error:
                trouble = str(error)
            except ServerHangs as error:
                raise Unavailable(
                    f"vLLM gave {error}: it hangs, or the batch is too large for vllm.answer_timeout_s; play.width makes it smaller"
                ) from error
            else:
                if answer.status not in again or lost == TRIES - 1:
                    return answer
                trouble = f"status {answer.status}: {answer.message}"
                time.sleep(1.0 + lost)  # where its engine has died it goes now
            self._reconnect(client, trouble)
        raise Unavailable(f"vLLM died {TRIES} times over one request: logs/vllm.log in the home says why")

    def _reconnect(self, client: Client, trouble: str, another: bool = False) -> None:
        """Find the server again, once for all threads that lost it; with `another`, the one that comes after it."""
        with self._lock:
            if self._client is client:
                client.close()
                self._lost_s = self._lost_s or time.monotonic()
                left_s = self._limits.start_s + self._lost_s - time.monotonic()
                self._client = wait_for_server(self._home, max(left_s, 0.0), client.server if another else None)
                self._lost_s = None
                same = "the same server" if self._client.server == client.server else "a new one"
                self._news.append(f"vLLM failed ({trouble}); {same} was asked again")

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Tell the news at the end, however it ends."""
        try:
            yield
        finally:
            news, self._news = self._news, deque()
            for line in dict.fromkeys(news):  # several threads may have met the same
                self._tell(line)

    def _wake(self, client: Client) -> None:
        """Undo `release_memory`, of this process or of one that ended meanwhile."""
        if self._limits.sleeps:
            answer = client.get("/is_sleeping")
            if answer.status == 200 and answer.data["is_sleeping"]:
                woken = client.post("/wake_up", {}, self._limits.answer_s)
                if woken.status != 200:
                    raise RuntimeFailure(f"vLLM does not wake ({woken.message}): leave it more memory, or set vllm.sleep = false")

    def _require(self, sampler: Sampler) -> Served:
        if sampler not in self._served:
            raise PolicyError(f"{sampler} is not loaded in this engine")
        return self._served[sampler]

    def _context_limit(self) -> int:
        try:
            models = {model["id"]: model for model in self._client.get("/v1/models").data["data"]}
        except (ServerGone, ServerHangs) as error:
            self.close()
            raise Unavailable(f"the vLLM server went as soon as it had come: {error}") from error
        if self._base not in models:
            self.close()
            raise InputError(f"the vLLM server serves {', '.join(models)} and not {self._base} ({self.files.name}): start it again")
        return int(models[self._base]["max_model_len"])


@dataclass(frozen=True, slots=True)
class VllmPolicy:
    """`Policy` over one sampler of an engine."""

    engine: VllmEngine
    sampler: Sampler

    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        return self.engine.generate(self.sampler, requests)


def samples_of(data: Any, name: str, sampler: Sampler, requests: Sequence[Request], stops: frozenset[int]) -> list[Sample]:
    """The samples in an answer, each checked against what was asked.

    Raises `PolicyError` for an answer of another model or out of form, `NotFinite` for log-probs that are not finite.
    """
    try:
        if data["model"] != name:
            raise PolicyError(f"vLLM answered as {data['model']!r}, but {name!r} was asked for: the answers are discarded")
        choices = {choice["index"]: choice for choice in data["choices"]}
        found = []
        for i, request in enumerate(requests):
            choice = choices[i]
            ids, logprobs, finish = tuple(choice["token_ids"]), tuple(choice["logprobs"]["token_logprobs"]), choice["finish_reason"]
            if tuple(choice["prompt_token_ids"]) != request.prompt_ids:
                raise PolicyError(f"vLLM read another prompt than request {i} has: the answers are discarded")
            if not 1 <= len(ids) <= request.max_tokens or len(logprobs) != len(ids):
                raise PolicyError(f"vLLM gave {len(ids)} tokens with {len(logprobs)} log-probs where {request.max_tokens} were asked for")
            if finish not in ("stop", "length") or (finish == "stop") != (ids[-1] in stops):
                raise PolicyError(f"vLLM ended an answer with token {ids[-1]} and says {finish!r}")
            if not all(isinstance(logp, float | int) and math.isfinite(logp) for logp in logprobs):
                raise NotFinite
            found.append(Sample(action_ids=ids, logprobs=tuple(map(float, logprobs)), finish=finish, sampler=sampler))
    except (KeyError, TypeError, IndexError) as error:
        raise PolicyError(f"vLLM answered out of form ({type(error).__name__}: {error}): its version does not fit") from error
    if len(choices) != len(requests):
        raise PolicyError(f"vLLM gave {len(choices)} answers to {len(requests)} requests")
    return found


@contextmanager
def _gone_if_it_fails(served: Served) -> Iterator[None]:
    """Leave no scratch folder behind where a sampler could not be loaded."""
    try:
        yield
    except BaseException:
        if served.scratch and served.folder is not None:
            shutil.rmtree(served.folder, ignore_errors=True)
        raise


def _eos(path: Path) -> int | list[int] | None:
    """The end tokens that the model's generation configuration names, or else its own."""
    with suppress(OSError):
        found: int | list[int] | None = GenerationConfig.from_pretrained(path).eos_token_id
        return found
    own: int | list[int] | None = getattr(AutoConfig.from_pretrained(path, trust_remote_code=False), "eos_token_id", None)
    return own
