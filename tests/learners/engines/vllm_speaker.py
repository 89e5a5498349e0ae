"""A server with the protocol of vLLM, on a port of this machine, whose faults can be set."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from perdure.learners.engines.vllm_client import Server

Change = Callable[[dict[str, Any]], object]


@dataclass
class Speaker:
    """A server that answers every prompt with token 7; its faults can be set."""

    base: str
    key: str = "right"
    adapters: dict[str, str] = field(default_factory=dict)
    change: Change = lambda answer: answer
    """Changes an answer. Text is sent as it is, a number is a status, None closes the connection."""
    hangs_s: float = 0.0
    calls: list[str] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)
    """Of every connection so far."""
    asleep: bool = False
    status: int = 200
    """Of completions."""
    effect: float = 0.125
    """How much less likely each given token is under an adapter than under the base model."""
    leaves_after: int | None = None
    """Requests after which it closes every connection without an answer."""

    def __post_init__(self) -> None:
        speaker = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                speaker.sockets.append(self.connection)

            def do_GET(self) -> None:
                self.reply({})

            def do_POST(self) -> None:
                self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}"))

            def reply(self, asked: dict[str, Any]) -> None:
                found = 401 if self.headers["Authorization"] != f"Bearer {speaker.key}" else speaker.answer(self.path, asked)
                if found is None:
                    self.close_connection = True
                    return
                status = found if isinstance(found, int) else speaker.status if self.path == "/v1/completions" else 200
                text = found if isinstance(found, str) else json.dumps({"error": {"message": "no"}} if isinstance(found, int) else found)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def server(self) -> Server:
        return Server(url=f"http://127.0.0.1:{self.http.server_port}", key=self.key, pid=1)

    def answer(self, path: str, asked: dict[str, Any]) -> object:
        self.calls.append(path)
        if self.leaves_after is not None and len(self.calls) > self.leaves_after:
            return None
        if path == "/v1/models":
            return {"data": [{"id": self.base, "max_model_len": 64}]}
        if path == "/v1/load_lora_adapter":
            assert (Path(asked["lora_path"]) / "adapter_config.json").is_file()
            self.adapters[asked["lora_name"]] = asked["lora_path"]
            return "loaded"
        if path == "/v1/unload_lora_adapter":
            return "gone" if self.adapters.pop(asked["lora_name"], None) else 404
        if path == "/is_sleeping":
            return {"is_sleeping": self.asleep}
        if path in ("/sleep?level=1", "/wake_up"):
            self.asleep = path != "/wake_up"
            return "ok"
        assert path == "/v1/completions", path
        if asked["model"] not in (self.base, *self.adapters) or self.asleep:
            return 404
        time.sleep(self.hangs_s)
        n = asked["max_tokens"]
        effect = 0.0 if asked["model"] == self.base else self.effect
        choices = [
            {
                "index": i,
                "prompt_token_ids": prompt,
                "token_ids": [7] * n,
                "logprobs": {"token_logprobs": [-0.5] * n},
                "finish_reason": "length",
                "prompt_logprobs": [None, *({str(token): {"logprob": -0.25 * token - effect, "rank": 1}} for token in prompt[1:])]
                if "prompt_logprobs" in asked
                else None,
            }
            for i, prompt in enumerate(asked["prompt"])
        ]
        return self.change({"model": asked["model"], "choices": choices})

    def cut(self) -> None:
        """Close every connection."""
        for one in self.sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.cut()


def every(change: Callable[[dict[str, Any]], object]) -> Change:
    """A change of each choice."""

    def changed(answer: dict[str, Any]) -> dict[str, Any]:
        for choice in answer["choices"]:
            change(choice)
        return answer

    return changed
