"""What a vLLM server answers, checked against what it was asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from perdure.envs.policy import Ids, PolicyError, Request, Sample
from perdure.memory.records import Sampler


class NotFinite(ArithmeticError):
    """The server computed NaN or infinity."""


def samples_of(data: Any, name: str, sampler: Sampler, requests: Sequence[Request], stops: frozenset[int]) -> list[Sample]:
    """The samples in an answer, each checked against its request.

    Raises `PolicyError` if the answer is another model's or malformed, `NotFinite` if a log-prob is not finite.
    """
    try:
        if data["model"] != name:
            raise PolicyError(f"vLLM answered as {data['model']!r}, but {name!r} was asked for: the answers are discarded")
        choices = {choice["index"]: choice for choice in data["choices"]}
        samples = []
        for i, request in enumerate(requests):
            choice = choices[i]
            ids, logprobs, finish = tuple(choice["token_ids"]), tuple(choice["logprobs"]["token_logprobs"]), choice["finish_reason"]
            if tuple(choice["prompt_token_ids"]) != request.prompt_ids:
                raise PolicyError(f"vLLM answered another prompt than that of request {i}: the answers are discarded")
            if not 1 <= len(ids) <= request.max_tokens or len(logprobs) != len(ids):
                raise PolicyError(f"vLLM gave {len(ids)} tokens with {len(logprobs)} log-probs; {request.max_tokens} were asked for")
            if finish not in ("stop", "length") or (finish == "stop") != (ids[-1] in stops):
                raise PolicyError(f"vLLM ended an answer with token {ids[-1]}, but gives {finish!r} as the reason")
            if not all(isinstance(logp, float | int) and math.isfinite(logp) for logp in logprobs):
                raise NotFinite
            samples.append(Sample(action_ids=ids, logprobs=tuple(map(float, logprobs)), finish=finish, sampler=sampler))
    except (KeyError, TypeError, IndexError) as error:
        raise PolicyError(f"vLLM's answer is malformed ({type(error).__name__}: {error}): use a supported version of vLLM") from error
    if len(choices) != len(requests):
        raise PolicyError(f"vLLM gave {len(choices)} answers to {len(requests)} requests")
    return samples


def given_logprobs(data: Any, name: str, turns: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, ...]]:
    """The log-probs of the action tokens of turns that were read as prompts.

    Raises `PolicyError` if the answer is another model's or malformed, `NotFinite` if a log-prob is not finite.
    """
    try:
        if data["model"] != name:
            raise PolicyError(f"vLLM answered as {data['model']!r}, but {name!r} was asked for: the answers are discarded")
        choices = {choice["index"]: choice for choice in data["choices"]}
        found = []
        for i, (prompt, action) in enumerate(turns):
            choice = choices[i]
            if tuple(choice["prompt_token_ids"]) != prompt + action:
                raise PolicyError(f"vLLM read another prompt than that of request {i}: the answers are discarded")
            places = choice["prompt_logprobs"][len(prompt) :]
            logps = [place[str(token)]["logprob"] for place, token in zip(places, action, strict=True)]
            if not all(isinstance(logp, float | int) and math.isfinite(logp) for logp in logps):
                raise NotFinite
            found.append(tuple(map(float, logps)))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise PolicyError(f"vLLM's answer is malformed ({type(error).__name__}: {error}): use a supported version of vLLM") from error
    if len(choices) != len(turns):
        raise PolicyError(f"vLLM gave {len(choices)} answers to {len(turns)} requests")
    return found
