"""A player: a process elsewhere that plays live tasks of a home with an engine of its own, until it is asked to end.

`run` is a piece of work (`agent/cluster/pieces.py`); `python -m perdure.agent.cluster.playing.remote_player ORDER` runs the order in a
file. A player has a name that the journal gives it. If it cannot reach the journal, or was silent for too long, its episodes are lost: it
gives them up and comes back under another name. It ends if its program, its model, or the code of an environment is not that of the head.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import perdure
from perdure.agent.cluster.journal.journal_client import JournalClient
from perdure.agent.cluster.journal.journal_messages import PROTOCOL, Body
from perdure.agent.cluster.journal.known_players import PlayerFenced, PlayerGone
from perdure.agent.cluster.playing.fetched_model import Ask, FetchedModel, RemoteModel
from perdure.agent.cluster.playing.player_order import PlayerOrder, read_order
from perdure.agent.cluster.playing.remote_desk import RemoteDesk, RemoteErrandDesk, RemoteJournal
from perdure.agent.config import Config
from perdure.agent.home import cache_dir
from perdure.agent.processes.exit_codes import die_of
from perdure.agent.processes.live_shift import LivePlay
from perdure.agent.processes.pulse import BEAT_S
from perdure.envs.rollout import Journal, nothing
from perdure.memory.errors import InputError, PerdureError, RuntimeFailure
from perdure.memory.json_value import Document

POLL_S = 0.2
TRY_S = 2.0
"""How long it tries to say hello before it looks whether it is to end."""
PATIENCE = 2.0
"""How many times the silence that ends its leases a player waits for an answer."""
PINGS = 4
"""In the time of that silence."""


Say = Callable[[str], None]


def run(order: bytes, stop: Callable[[], bool], say: Say) -> bytes:
    """Play until `stop`. Raises `InputError` if this node cannot play for this head, `RuntimeFailure` if it fails."""
    return play_for(read_order(order), stop, say, PlayerParts())


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayerParts:
    """What a player is made of."""

    hash_of_base: Callable[[Config, Say], str] = field(default_factory=lambda: base_hash)
    """The hash of the base model's files on this node."""
    open_model: Callable[[PlayerOrder, Document, Ask, Say], RemoteModel] = field(default_factory=lambda: open_fetched)
    """Opens the model, after the journal's welcome."""
    journal: Callable[[Journal], Journal] = lambda journal: journal
    """What is written to, made of the journal that is reached over HTTP."""


def play_for(order: PlayerOrder, stop: Callable[[], bool], say: Say, parts: PlayerParts) -> bytes:
    """`run`, with these parts."""
    hash_ = parts.hash_of_base(order.settings, say)
    model: RemoteModel | None = None
    names: list[str] = []
    reached_s = time.monotonic()
    with closing(JournalClient(url=order.journal, token=order.token, patience_s=TRY_S)) as client:

        def ask(path: str, head: Document) -> Body:
            return client.ask(path, {"player": names[-1], **head})

        while not stop():
            try:
                client.patience_s = TRY_S
                welcome = client.ask("hello", {**_who(order), "hash": hash_}).head
            except PlayerGone as error:
                if time.monotonic() - reached_s > order.reach_s:
                    raise RuntimeFailure(f"{error}; it was tried for {order.reach_s:.0f} s") from error
                say(f"waits: {error}")
                continue
            silence_s = float(welcome["silence_s"])
            client.patience_s, client.answer_s = PATIENCE * silence_s, silence_s
            names.append(str(welcome["player"]))
            say(f"is {names[-1]}")
            try:
                with Pinging(order, names[-1], silence_s / PINGS) as pinging:
                    model = model or parts.open_model(order, welcome, ask, say)
                    _play(order, client, model, pinging, parts, stop, say)
            except PlayerGone as error:
                say(f"gives up its episodes: {error}")
            except PlayerFenced as error:
                raise RuntimeFailure(str(error)) from error
            reached_s = time.monotonic()
    return json.dumps({"names": names}).encode()


def _play(
    order: PlayerOrder,
    client: JournalClient,
    model: RemoteModel,
    pinging: Pinging,
    parts: PlayerParts,
    stop: Callable[[], bool],
    say: Say,
) -> None:
    """Play under one name, until `stop` or until the journal does not know it any more: errands, and live tasks if there are none."""

    def ended() -> bool:
        pinging.note()  # the rollout loop asks each round: a round is progress
        return stop() or pinging.gone

    def tell(state: str, detail: str | None) -> None:
        pinging.doing = state
        say(f"{state} {detail or ''}".strip())

    desk = RemoteDesk(client, pinging.name, order.settings.play)
    live = LivePlay(desk, parts.journal(RemoteJournal(client, pinging.name, model.hashes)), order.settings, tell)
    while not ended():
        if desk.waits:
            pinging.doing = "idle"
            time.sleep(POLL_S)
        elif desk.errands_wait:
            desk.errands_wait = False
            pinging.doing = "judging"
            _judge(RemoteErrandDesk(client, pinging.name, model.hashes), model, live, order, ended)
        else:
            live.play_shift(model, ended)
    if pinging.gone:
        raise PlayerGone(f"the journal does not know {pinging.name} any more")


def _judge(desk: RemoteErrandDesk, model: RemoteModel, live: LivePlay, order: PlayerOrder, stop: Callable[[], bool]) -> None:
    """Play some errands, if there still are any."""
    from perdure.agent.cluster.judging.errand_play import ErrandMeans, judge_once
    from perdure.learners.learning_job import Interrupted

    width = order.settings.play.width
    means = ErrandMeans(model=model, load=lambda name: live.environment(name, None), at_once=width, stop=stop, each_round=nothing)
    with suppress(Interrupted):  # it is to end
        if not judge_once(desk, means, width):
            time.sleep(POLL_S)


class Pinging:
    """Tells the journal again and again that this player lives, as long as the thread that plays makes progress."""

    def __init__(self, order: PlayerOrder, name: str, every_s: float) -> None:
        self.name = name
        self.doing = "starting"
        self.gone = False
        """Whether the journal does not know this player any more."""
        self._order = order
        self._every_s = every_s
        self._ended = threading.Event()
        self._noted_s = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="pings", daemon=True)

    def note(self) -> None:
        """There is progress."""
        self._noted_s = time.monotonic()

    def __enter__(self) -> Pinging:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join(timeout=BEAT_S)

    def _run(self) -> None:
        client = JournalClient(url=self._order.journal, token=self._order.token, patience_s=0.0, answer_s=self._every_s)
        while not self._ended.wait(self._every_s):
            if time.monotonic() - self._noted_s > self._order.settings.supervise.hang_s:
                continue  # what plays hangs: the journal gives its tasks to others
            try:
                client.ask("ping", {"player": self.name, "doing": self.doing})
            except PlayerGone as error:
                self.gone = self.gone or error.__cause__ is None  # else it was not reached, and may be at the next try
            except PerdureError:
                self.gone = True
        client.close()


def _who(order: PlayerOrder) -> Document:
    return {
        "protocol": PROTOCOL,
        "perdure": perdure.__version__,
        "model": order.settings.model,
        "label": f"{order.name}-{platform.node()}-{os.getpid()}",
    }


def base_hash(config: Config, say: Say) -> str:
    """The hash of the base model's files on this node; fetches them if they are missing."""
    from perdure.learners.weights.base_models import resolve_model

    return resolve_model(config.model, cache_dir(), say).hash


def open_fetched(order: PlayerOrder, welcome: Document, ask: Ask, say: Say) -> RemoteModel:
    """The engine of this node, whose versions come from the head."""
    from perdure.agent.processes.open_engine import chat_settings
    from perdure.learners.engines.version_loading import named_dtype, open_engine_in
    from perdure.learners.weights.base_models import resolve_model

    if order.settings.engine == "vllm":
        raise InputError("engine = 'vllm': players elsewhere sample with transformers only; set players = 0, or engine = 'transformers'")
    files = resolve_model(order.settings.model, cache_dir(), say)
    say(f"loading {files.name}")
    engine = open_engine_in(
        files,
        device=order.settings.device,
        dtype_of=lambda: named_dtype(welcome["precision"].get(order.settings.device), order.settings.device),
        seed=order.settings.seed ^ int.from_bytes(os.urandom(4)),
        chat=chat_settings(order.settings, float(welcome["began_s"])),
    )
    return FetchedModel(engine, cache_dir() / "versions", ask)


def main(parts: PlayerParts) -> int:
    """Run the order in a file; SIGTERM asks it to end."""
    sys.path.append("")  # the working folder, last: environments of its own may be there
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    try:
        order = read_order(Path(sys.argv[1]).read_bytes())
        answer = play_for(order, asked.is_set, lambda line: print(line, flush=True), parts)
    except (PerdureError, OSError, IndexError) as error:
        die_of(error)
    print(answer.decode(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(PlayerParts()))
