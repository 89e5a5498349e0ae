"""vLLM's own offline API, for `bench_vllm`. It runs in the Python that has vLLM, and imports nothing of Perdure.

Its argument is a JSON object with the arguments of `vllm.LLM`. Each line on stdin is a batch; a line on stdout, after `MARK`, has its
seconds and tokens.
"""

from __future__ import annotations

import json
import sys
import time

MARK = "measured: "


def main() -> None:
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]
    from vllm.lora.request import LoRARequest  # type: ignore[import-not-found]

    llm = LLM(**json.loads(sys.argv[1]))
    _print({"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        params = SamplingParams(temperature=1.0, max_tokens=asked["max_tokens"], logprobs=0, ignore_eos=True)
        lora = LoRARequest(asked["lora"], 1, asked["folder"]) if asked["lora"] else None
        prompts = [{"prompt_token_ids": prompt} for prompt in asked["prompts"]]
        started = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=False, lora_request=lora)
        seconds = time.perf_counter() - started
        _print({"seconds": seconds, "tokens": sum(len(output.outputs[0].token_ids) for output in outputs)})


def _print(answer: dict[str, bool | int | float]) -> None:
    print(f"\n{MARK}{json.dumps(answer)}", flush=True)


if __name__ == "__main__":  # its workers are spawned, and import this again
    main()
