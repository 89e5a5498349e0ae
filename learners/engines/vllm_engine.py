"""The vLLM engine: a client of vLLM's own OpenAI-compatible server on this machine, tokens in and tokens out.

A name is used for one adapter only, because vLLM's prefix cache goes by the name. A version is served from its own folder, a step from a
scratch folder. If the server dies, a new one has no adapters; each is loaded again when a request for it fails. If an answer has a number
that is not finite, the server is restarted: it stays in the server's cache and would spoil answers of other adapters. Left out: starting
and watching the server (`agent/processes/vllm_server.py`), weights that replace those of the base model, top-p and top-k.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from uuid import uuid4

from perdure.envs.policy import Ids, PolicyError, Request, Sample
from perdure.learners.chat.chat_settings import ChatSettings
from perdure.learners.chat.open_chat import load_tokenizer, named_ends
from perdure.learners.chat.template_chat import TemplateChat
from perdure.learners.chat.template_check import check_chat
from perdure.learners.engines.adapter_effect import require_effect
from perdure.learners.engines.engine import require_room, require_turn_room
from perdure.learners.engines.transformers_engine import PLAIN_CHAT
from perdure.learners.engines.vllm_answers import NotFinite, given_logprobs, samples_of
from perdure.learners.engines.vllm_client import (
    Answer,
    Body,
    Client,
    Completion,
    ServerGone,
    ServerHangs,
    ask_for_restart,
    base_name,
    wait_for_server,
)
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.peft_format import write_lora
from perdure.learners.weights.weight_sets import LoraPair, Weights
from perdure.memory.errors import Diverged, InputError, RuntimeFailure, Unavailable
from perdure.memory.records import Sampler, VersionRef

CONCURRENT_REQUESTS = 8
"""At most; requests of one batch that differ in length, temperature or seed are sent separately."""
NAN_IN_JSON = "Out of range float values"
"""In the server's error if a log-prob is NaN, which JSON cannot express."""
TURNS_AT_ONCE = 128
"""Given answers in one request."""
TRIES = 3
"""Attempts at one request, each after the server was lost."""


Part = TypeVar("Part", Sample, tuple[float, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What the server was started with, and time limits."""

    max_rank: int = 16
    dtype: str = "bfloat16"
    start_s: float = 600.0
    """Time to wait for a server that is starting."""
    answer_s: float = 300.0
    """Time to wait for one batch."""
    sleeps: bool = False
    """Whether the server can be put to sleep."""


@dataclass(frozen=True, slots=True)
class Served:
    """The name and folder of a sampler on the server; the base model has no folder."""

    name: str
    folder: Path | None = None
    scratch: bool = False
    """The folder is deleted when the sampler is unloaded."""


def silent(line: str) -> None:
    """Report nothing."""


class VllmEngine:
    """Samplers on the vLLM server of a home. `report` gets a line for each failure that was recovered from.

    Raises `Unavailable` if no server answers in time, `InputError` if it serves another model.
    """

    def __init__(
        self,
        files: ModelFiles,
        home: Path,
        limits: ServerLimits,
        report: Callable[[str], None] = silent,
        chat: ChatSettings = PLAIN_CHAT,
    ) -> None:
        self.files = files
        self._home = home.resolve()
        self._limits = limits
        self._report = report
        self._failures: deque[str] = deque()
        """Failures in any thread, to be reported by the thread that called the engine."""
        self._base = base_name(files)
        self._lock = Lock()
        self._lost_s: float | None = None
        """When the server was lost, on the monotonic clock; all threads share one time limit."""
        self._client = wait_for_server(home, limits.start_s)
        self.context_limit = self._context_limit()
        tokenizer = load_tokenizer(files.path)
        self.chat = TemplateChat(tokenizer, named_ends(files.path, tokenizer), chat)
        check_chat(self.chat, tokenizer)
        self.stop_ids = self.chat.stop_ids
        self._served: dict[Sampler, Served] = {}

    @property
    def numerics(self) -> str:
        return f"vllm, {self._limits.dtype}, {self.context_limit} tokens{self.chat.settings.label}"

    @property
    def shared_model(self) -> None:
        """The model is in the server's process."""
        return None

    def load(self, sampler: Sampler, weights: Weights) -> None:
        """Load a sampler into the server. A version's files must be in its folder.

        Raises `InputError` for weights that vLLM cannot serve or that are not finite, `RuntimeFailure` if vLLM refuses or ignores them.
        """
        if sampler in self:
            raise ValueError(f"{sampler} is already loaded")
        pairs = {name: pair for name, pair in weights.items() if isinstance(pair, LoraPair)}
        if len(pairs) < len(weights):
            name = next(name for name in weights if name not in pairs)
            raise InputError(f"{sampler} replaces {name}, but vLLM serves LoRA adapters only: set engine = 'transformers'")
        rank = max((len(pair.down_RI) for pair in pairs.values()), default=0)
        if rank > self._limits.max_rank:
            raise InputError(
                f"{sampler} has rank {rank}, but the server was started for at most {self._limits.max_rank}: raise vllm.max_rank"
            )
        if not pairs:
            served = Served(self._base)
        elif isinstance(sampler, VersionRef):
            served = Served(sampler.name, self._home / "versions" / sampler.name)
        else:
            name = f"job-{sampler.job}-step-{sampler.n}-{uuid4().hex[:12]}"
            served = Served(name, self._home / "run" / "steps" / name, scratch=True)
        with self._reporting(), _removed_on_failure(served):
            if served.scratch and served.folder is not None:
                served.folder.mkdir(parents=True)
                write_lora(served.folder, pairs, self.files)
            self._serve(sampler, served)
        self._served[sampler] = served
        require_effect(self, sampler, weights)

    def unload(self, sampler: Sampler) -> None:
        """Unload a sampler. A version stays on the server, since others may sample from it; vLLM unloads the least used ones."""
        served = self._served.pop(sampler)
        if served.scratch and served.folder is not None:
            with suppress(ServerGone, ServerHangs):  # then the adapter is unloaded too
                self._client.post("/v1/unload_lora_adapter", {"lora_name": served.name})
            shutil.rmtree(served.folder, ignore_errors=True)

    def __contains__(self, sampler: Sampler) -> bool:
        return sampler in self._served

    def policy(self, sampler: Sampler) -> VllmPolicy:
        """The `Policy` of a loaded sampler."""
        self._require(sampler)
        return VllmPolicy(self, sampler)

    def release_memory(self) -> None:
        """Put the server to sleep, which frees the GPU's memory until the next request; only if it was started with this ability."""
        if not self._limits.sleeps:
            return
        try:
            answer = self._client.post("/sleep?level=1", None, self._limits.answer_s)
        except ServerGone:  # then it holds no memory; the next request waits for a new server
            return
        except ServerHangs as error:
            raise Unavailable(f"vLLM hangs ({error}) instead of going to sleep: it is restarted") from error
        if answer.status != 200:
            raise RuntimeFailure(f"vLLM cannot sleep ({answer.message}): set vllm.sleep = false")

    def close(self) -> None:
        """Close the connections; the server keeps running."""
        self._client.close()

    def generate(self, sampler: Sampler, requests: Sequence[Request]) -> list[Sample]:
        """Continue each prompt. Raises `PolicyError` if vLLM cannot answer one, `RuntimeFailure` if the weights have diverged, and
        `Unavailable` if a lost server does not come back in time."""
        self._require(sampler)
        groups: dict[tuple[int, float, int | None], list[int]] = {}
        for i, request in enumerate(requests):
            require_room(len(request.prompt_ids), request.max_tokens, self.context_limit)
            groups.setdefault((request.max_tokens, request.temperature, request.seed), []).append(i)
        if not groups:
            return []
        samples: dict[int, Sample] = {}
        with self._reporting(), ThreadPoolExecutor(min(CONCURRENT_REQUESTS, len(groups))) as pool:
            answers = pool.map(
                lambda batch: self._finite(sampler, lambda: self._samples_of(sampler, [requests[i] for i in batch])), groups.values()
            )
            for batch, answer in zip(groups.values(), answers, strict=True):
                samples.update(zip(batch, answer, strict=True))
        return [samples[i] for i in range(len(requests))]

    def logprobs(self, sampler: Sampler, turns: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, ...]]:
        """Log-probs of given answers (`Engine.logprobs`). The server reads prompt and answer as one prompt. Raises as `generate` does."""
        self._require(sampler)
        require_turn_room(turns, self.context_limit)
        if not turns:
            return []
        batches = [turns[start : start + TURNS_AT_ONCE] for start in range(0, len(turns), TURNS_AT_ONCE)]
        with self._reporting(), ThreadPoolExecutor(min(CONCURRENT_REQUESTS, len(batches))) as pool:
            answers = pool.map(lambda batch: self._finite(sampler, lambda: self._logprobs_of(sampler, batch)), batches)
            return [logps for answer in answers for logps in answer]

    def _finite(self, sampler: Sampler, ask: Callable[[], list[Part]]) -> list[Part]:
        """What is asked for. If an answer is not finite, a new server shows if this adapter is at fault."""
        for fresh in (False, True):
            client = self._client
            try:
                return ask()
            except NotFinite:
                ask_for_restart(self._home, client.server)
                if not fresh:
                    self._reconnect(client, "an answer was not finite", another=True)
        raise Diverged(f"the log-probs of {sampler} are not finite: its adapter has diverged; learn with a smaller lr")

    def _samples_of(self, sampler: Sampler, requests: Sequence[Request]) -> list[Sample]:
        """Answers to requests of one length, temperature and seed."""
        served = self._require(sampler)
        body: Completion = {
            "model": served.name,
            "prompt": [request.prompt_ids for request in requests],
            "max_tokens": requests[0].max_tokens,
            "temperature": requests[0].temperature,
            "seed": requests[0].seed,
            "top_p": 1.0,
            "top_k": 0,
            "stop_token_ids": sorted(self.stop_ids),
            "ignore_eos": True,  # stop_token_ids has every token that ends an answer
            "logprobs": 0,  # of the sampled token alone
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,  # nothing is decoded here
        }
        return samples_of(self._complete(sampler, served, body), served.name, sampler, requests, self.stop_ids)

    def _logprobs_of(self, sampler: Sampler, turns: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, ...]]:
        served = self._require(sampler)
        body: Completion = {
            "model": served.name,
            "prompt": [prompt + action for prompt, action in turns],
            "max_tokens": 1,  # it is sampled, and not looked at
            "temperature": 0.0,
            "ignore_eos": True,
            "prompt_logprobs": 0,  # of the given token alone
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }
        return given_logprobs(self._complete(sampler, served, body), served.name, turns)

    def _complete(self, sampler: Sampler, served: Served, body: Completion) -> Any:
        """The server's answer; an adapter that it has lost is loaded again. Raises `NotFinite`, and `PolicyError` for any other status."""
        answer = self._post("/v1/completions", body, again=(500, 503))
        if answer.status == 404 and served.folder is not None:
            self._failures.append(f"the server has lost {served.name}, as after a restart: loaded it again")
            self._serve(sampler, served)
            answer = self._post("/v1/completions", body, again=(500, 503))
        if answer.status == 400 and NAN_IN_JSON in answer.message:
            raise NotFinite
        if answer.status != 200:
            raise PolicyError(f"vLLM did not answer as {served.name} (status {answer.status}): {answer.message}")
        return answer.data

    def _serve(self, sampler: Sampler, served: Served) -> None:
        """Load an adapter into the server, unless it has it already: a name is never used for two adapters."""
        if served.folder is None:
            return
        answer = self._post("/v1/load_lora_adapter", {"lora_name": served.name, "lora_path": str(served.folder)})
        if answer.status != 200 and "already been loaded" not in answer.message:
            raise RuntimeFailure(f"vLLM cannot serve {sampler} (status {answer.status}): {answer.message}")

    def _post(self, path: str, body: Body, again: Collection[int] = ()) -> Answer:
        """Send a request, and send it again if the server is lost or answers with a status in `again`.

        Sending it twice is safe: nothing of what a lost server sampled was used.
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
                    f"vLLM failed ({error}): it hangs, or the batch is too large: raise vllm.answer_timeout_s or lower play.width"
                ) from error
            else:
                if answer.status not in again or lost == TRIES - 1:
                    return answer
                trouble = f"status {answer.status}: {answer.message}"
                time.sleep(1.0 + lost)  # if its engine has died, the server ends now
            self._reconnect(client, trouble)
        raise Unavailable(f"vLLM died {TRIES} times during one request: see logs/vllm.log in the home")

    def _reconnect(self, client: Client, trouble: str, another: bool = False) -> None:
        """Connect to the server again, once for all threads; with `another`, wait for a new server."""
        with self._lock:
            if self._client is client:
                client.close()
                self._lost_s = self._lost_s or time.monotonic()
                left_s = self._limits.start_s + self._lost_s - time.monotonic()
                self._client = wait_for_server(self._home, max(left_s, 0.0), client.server if another else None)
                self._lost_s = None
                which = "the same server" if self._client.server == client.server else "a new one"
                self._failures.append(f"vLLM failed ({trouble}); {which} was asked again")

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Report the failures at the end, also if an error is raised."""
        try:
            yield
        finally:
            failures, self._failures = self._failures, deque()
            for line in dict.fromkeys(failures):  # several threads may have met the same one
                self._report(line)

    def _wake(self, client: Client) -> None:
        """Undo `release_memory`, which this or another process may have called."""
        if self._limits.sleeps:
            answer = client.get("/is_sleeping")
            if answer.status == 200 and answer.data["is_sleeping"]:
                woken = client.post("/wake_up", None, self._limits.answer_s)
                if woken.status != 200:
                    raise RuntimeFailure(f"vLLM cannot wake up ({woken.message}): leave it more memory, or set vllm.sleep = false")

    def _require(self, sampler: Sampler) -> Served:
        if sampler not in self._served:
            raise PolicyError(f"{sampler} is not loaded in this engine")
        return self._served[sampler]

    def _context_limit(self) -> int:
        try:
            models = {model["id"]: model for model in self._client.get("/v1/models").data["data"]}
        except (ServerGone, ServerHangs) as error:
            self.close()
            raise Unavailable(f"the vLLM server stopped as soon as it had started: {error}") from error
        if self._base not in models:
            self.close()
            raise InputError(f"the vLLM server serves {', '.join(models)} and not {self._base} ({self.files.name}): restart it")
        return int(models[self._base]["max_model_len"])


@dataclass(frozen=True, slots=True)
class VllmPolicy:
    """`Policy` over one sampler of an engine."""

    engine: VllmEngine
    sampler: Sampler

    def generate(self, requests: Sequence[Request]) -> list[Sample]:
        return self.engine.generate(self.sampler, requests)


@contextmanager
def _removed_on_failure(served: Served) -> Iterator[None]:
    """Delete the scratch folder of a sampler that could not be loaded."""
    try:
        yield
    except BaseException:
        if served.scratch and served.folder is not None:
            shutil.rmtree(served.folder, ignore_errors=True)
        raise
