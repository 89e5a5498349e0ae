"""The vLLM engine: a client of vLLM's own OpenAI-compatible server on this machine, tokens in and tokens out.

A name is used for one adapter only, because vLLM's prefix cache goes by the name. A version is served from its own folder, a step from a
scratch folder. If the server dies, a new one has no adapters; each is loaded again when a request for it fails. If an answer has a number
that is not finite, the server is restarted: it stays in the server's cache and would spoil answers of other adapters. With several replicas
of the server each has all adapters, and a batch is spread over them. Left out: a server that is lost (`vllm_replicas.py`), starting and
watching one (`agent/processes/vllm/vllm_server.py`), weights that replace those of the base model, top-p and top-k.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from perdure.envs.policy import Ids, PolicyError, Request, Sample
from perdure.learners.chat.chat_settings import ChatSettings
from perdure.learners.chat.open_chat import load_tokenizer, named_ends
from perdure.learners.chat.template_chat import TemplateChat
from perdure.learners.chat.template_check import check_chat
from perdure.learners.engines.adapter_effect import require_effect
from perdure.learners.engines.engine import require_room, require_turn_room
from perdure.learners.engines.prefix_spread import PrefixSpread
from perdure.learners.engines.transformers_engine import PLAIN_CHAT
from perdure.learners.engines.vllm_answers import NotFinite, given_logprobs, samples_of
from perdure.learners.engines.vllm_client import Completion, ServerGone, ServerHangs, base_name
from perdure.learners.engines.vllm_replicas import AskedServer, Replicas, ServerLimits
from perdure.learners.weights.base_models import ModelFiles
from perdure.learners.weights.peft_format import write_lora
from perdure.learners.weights.weight_sets import LoraPair, Weights
from perdure.memory.errors import Diverged, InputError, RuntimeFailure, Unavailable
from perdure.memory.records import Sampler, VersionRef

CONCURRENT_REQUESTS = 8
"""At most, to one server; requests of one batch that differ in length, temperature or seed are sent separately."""
NAN_IN_JSON = "Out of range float values"
"""In the server's error if a log-prob is NaN, which JSON cannot express."""
TURNS_AT_ONCE = 128
"""Given answers in one request."""

Part = TypeVar("Part", Sample, tuple[float, ...])


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
    """Samplers on the vLLM servers of a home. `report` gets a line for each failure that was recovered from.

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
        self._spread = PrefixSpread()
        self._replicas = Replicas(self._home, limits, lambda line: self._failures.append(line))
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
        """Load a sampler into every server. A version's files must be in its folder.

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
            places = self._replicas.in_service()
            with ThreadPoolExecutor(len(places)) as pool:
                list(pool.map(lambda place: self._serve(place, sampler, served), places))
        self._served[sampler] = served
        require_effect(self, sampler, weights, [partial(self._logprobs_at, [place]) for place in places])

    def unload(self, sampler: Sampler) -> None:
        """Unload a sampler. A version stays on the server, since others may sample from it; vLLM unloads the least used ones."""
        served = self._served.pop(sampler)
        if served.scratch and served.folder is not None:
            with suppress(ServerHangs):  # then its keeper ends the server, and the adapter goes with it
                self._replicas.each("/v1/unload_lora_adapter", {"lora_name": served.name})
            shutil.rmtree(served.folder, ignore_errors=True)

    def __contains__(self, sampler: Sampler) -> bool:
        return sampler in self._served

    def policy(self, sampler: Sampler) -> VllmPolicy:
        """The `Policy` of a loaded sampler."""
        self._require(sampler)
        return VllmPolicy(self, sampler)

    def release_memory(self) -> None:
        """Put the servers to sleep, which frees the GPU's memory until the next request; only if it was started with this ability."""
        if not self._limits.sleeps:
            return
        try:
            answers = self._replicas.each("/sleep?level=1", None, self._limits.answer_s)
        except ServerHangs as error:
            raise Unavailable(f"vLLM hangs ({error}) instead of going to sleep: it is restarted") from error
        for answer in answers:
            if answer.status != 200:
                raise RuntimeFailure(f"vLLM cannot sleep ({answer.message}): set vllm.sleep = false")

    def close(self) -> None:
        """Close the connections; the servers keep running."""
        self._replicas.close()

    def generate(self, sampler: Sampler, requests: Sequence[Request]) -> list[Sample]:
        """Continue each prompt. Raises `PolicyError` if vLLM cannot answer one, `RuntimeFailure` if the weights have diverged, and
        `Unavailable` if a lost server does not come back in time."""
        self._require(sampler)
        for request in requests:
            require_room(len(request.prompt_ids), request.max_tokens, self.context_limit)
        if not requests:
            return []
        places = self._replicas.in_service()
        groups: dict[tuple[int, int, float, int | None], list[int]] = {}
        for i, (at, request) in enumerate(zip(self._spread_over(places, [one.prompt_ids for one in requests]), requests, strict=True)):
            groups.setdefault((at, request.max_tokens, request.temperature, request.seed), []).append(i)
        samples: dict[int, Sample] = {}
        with self._reporting(), ThreadPoolExecutor(min(CONCURRENT_REQUESTS * len(places), len(groups))) as pool:
            answers = pool.map(
                lambda key, batch: self._finite(
                    sampler, places[key[0]], lambda place: self._samples_of(place, sampler, [requests[i] for i in batch])
                ),
                *zip(*groups.items(), strict=True),
            )
            for batch, answer in zip(groups.values(), answers, strict=True):
                samples.update(zip(batch, answer, strict=True))
        return [samples[i] for i in range(len(requests))]

    def logprobs(self, sampler: Sampler, turns: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, ...]]:
        """Log-probs of given answers (`Engine.logprobs`). The server reads prompt and answer as one prompt. Raises as `generate` does."""
        return self._logprobs_at(self._replicas.in_service(), sampler, turns)

    def _logprobs_at(self, places: Sequence[AskedServer], sampler: Sampler, turns: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, ...]]:
        """Log-probs of given answers, by these servers."""
        self._require(sampler)
        require_turn_room(turns, self.context_limit)
        if not turns:
            return []
        of_place: dict[int, list[int]] = {}
        for i, at in enumerate(self._spread_over(places, [prompt for prompt, _ in turns])):
            of_place.setdefault(at, []).append(i)
        batches = [
            (places[at], chosen[start : start + TURNS_AT_ONCE])
            for at, chosen in of_place.items()
            for start in range(0, len(chosen), TURNS_AT_ONCE)
        ]
        found: dict[int, tuple[float, ...]] = {}
        with self._reporting(), ThreadPoolExecutor(min(CONCURRENT_REQUESTS * len(places), len(batches))) as pool:
            answers = pool.map(
                lambda batch: self._finite(
                    sampler, batch[0], lambda place: self._logprobs_of(place, sampler, [turns[i] for i in batch[1]])
                ),
                batches,
            )
            for (_, chosen), answer in zip(batches, answers, strict=True):
                found.update(zip(chosen, answer, strict=True))
        return [found[i] for i in range(len(turns))]

    def _spread_over(self, places: Sequence[AskedServer], prompts: Sequence[Ids]) -> list[int]:
        """Which of the places each prompt goes to."""
        if not self._replicas.several or len(places) == 1:
            return [0] * len(prompts)
        index = {place.replica: i for i, place in enumerate(places)}
        return [index[replica] for replica in self._spread.assign(prompts, list(index))]

    def _finite(self, sampler: Sampler, place: AskedServer, ask: Callable[[AskedServer], list[Part]]) -> list[Part]:
        """What is asked for. If an answer is not finite, a new server shows if this adapter is at fault."""
        at = replace(place)
        for fresh in (False, True):
            try:
                return ask(at)
            except NotFinite:
                self._replicas.doubt(at, wait=not fresh)
        raise Diverged(f"the log-probs of {sampler} are not finite: its adapter has diverged; learn with a smaller lr")

    def _samples_of(self, place: AskedServer, sampler: Sampler, requests: Sequence[Request]) -> list[Sample]:
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
        return samples_of(self._complete(place, sampler, served, body), served.name, sampler, requests, self.stop_ids)

    def _logprobs_of(self, place: AskedServer, sampler: Sampler, turns: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, ...]]:
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
        return given_logprobs(self._complete(place, sampler, served, body), served.name, turns)

    def _complete(self, place: AskedServer, sampler: Sampler, served: Served, body: Completion) -> Any:
        """The server's answer; an adapter that it has lost is loaded again. Raises `NotFinite`, and `PolicyError` for any other status."""
        answer = self._replicas.post(place, "/v1/completions", body, again=(500, 503))
        if answer.status == 404 and served.folder is not None:
            self._failures.append(f"the server has lost {served.name}, as after a restart: loaded it again")
            self._serve(place, sampler, served)
            answer = self._replicas.post(place, "/v1/completions", body, again=(500, 503))
        if answer.status == 400 and NAN_IN_JSON in answer.message:
            raise NotFinite
        if answer.status != 200:
            raise PolicyError(f"vLLM did not answer as {served.name} (status {answer.status}): {answer.message}")
        return answer.data

    def _serve(self, place: AskedServer, sampler: Sampler, served: Served) -> None:
        """Load an adapter into a server, unless it has it already: a name is never used for two adapters."""
        if served.folder is None:
            return
        answer = self._replicas.post(place, "/v1/load_lora_adapter", {"lora_name": served.name, "lora_path": str(served.folder)})
        if answer.status != 200 and "already been loaded" not in answer.message:
            raise RuntimeFailure(f"vLLM cannot serve {sampler} (status {answer.status}): {answer.message}")

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Report the failures at the end, also if an error is raised."""
        try:
            yield
        finally:
            failures, self._failures = self._failures, deque()
            for line in dict.fromkeys(failures):  # several threads may have met the same one
                self._report(line)

    def _require(self, sampler: Sampler) -> Served:
        if sampler not in self._served:
            raise PolicyError(f"{sampler} is not loaded in this engine")
        return self._served[sampler]

    def _context_limit(self) -> int:
        try:
            models = {model["id"]: model for model in self._replicas.in_service()[0].client.get("/v1/models").data["data"]}
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
