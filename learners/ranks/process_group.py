"""How the ranks of a job reach each other: a store of keys, with rank 0 unless torchrun has one, and torch's collectives.

The first rank tells the others what to do by a key of the store, for which they wait in short steps and so may be stopped; what belongs to
it follows as a broadcast. Every collective ends within `limit_s`: a rank that is dead or silent for so long makes it `Unavailable`, so
that the job is tried again. Which backend carries tensors is decided in `backend_of` alone: gloo for CPUs, NCCL for GPUs.

What is sent is neither encrypted nor signed: a process that knows `token` and reaches the port is a rank.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import get_args

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed.rendezvous import rendezvous

from perdure.envs.rollout import nothing
from perdure.learners.ranks.ranks import What
from perdure.memory.errors import InputError, RuntimeFailure, Unavailable

LIMIT_S = 300.0
"""That a rank waits for another."""
LOOK_S = 0.02
"""From one look at the store to the next."""
LEAVE_S = 5.0
"""That the first rank waits for the others at the end."""
BUCKET_BYTES = 64 * 2**20
"""Of tensors that are added up at once."""
LOOPBACK = "lo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Where the ranks of a job meet."""

    address: str
    port: int
    token: str
    count: int
    """Ranks, with the first."""
    limit_s: float = LIMIT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class RankOrder:
    """What a rank that is not the first must know to join; all else it is told when it has."""

    meeting: Meeting
    number: int
    device: str


def order_bytes(order: RankOrder) -> bytes:
    """The order as JSON."""
    return json.dumps(asdict(order)).encode()


def read_order(content: bytes) -> RankOrder:
    """The order of `order_bytes`. Raises `InputError` for anything else."""
    try:
        found = json.loads(content)
        return RankOrder(**{**found, "meeting": Meeting(**found["meeting"])})
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"this is no order for a rank ({error})") from error


class ProcessGroup:
    """A rank of several, over torch.distributed; `ranks.py:Ranks` says what it does. A process has one at most."""

    def __init__(self, store: Store, number: int, count: int, device: str, limit_s: float) -> None:
        """Meet the others. Raises `Unavailable` if they do not come in time."""
        self.number, self.count, self._store, self._told = number, count, store, 0
        self._device = torch.device(device)
        try:
            dist.init_process_group(backend_of(device), store=store, rank=number, world_size=count, timeout=timedelta(seconds=limit_s))
        except RuntimeError as error:
            raise Unavailable(f"the {count} ranks of this job did not meet within {limit_s:g} s ({_first_line(error)})") from error

    def tell(self, what: What, content: bytes = b"") -> None:
        if self.number:
            return
        with self.reporting():
            self._told += 1
            self._store.set(f"told/{self._told}", f"{what} {len(content)}")
            self._send(content, len(content))

    def told(self, stop: Callable[[], bool]) -> tuple[What, bytes]:
        """What the first rank says next; `end` if this process is to stop. Raises `Unavailable` if the first rank is gone."""
        self._told += 1
        key = f"told/{self._told}"
        while not stop():
            try:
                if not self._store.check([key]):
                    time.sleep(LOOK_S)
                    continue
                what, size = self._store.get(key).decode().split()
            except RuntimeError as error:
                raise Unavailable(f"the first rank is gone ({_first_line(error)})") from error
            for known in get_args(What):
                if what == known:
                    with self.reporting():
                        return known, self._send(None, int(size))
            raise RuntimeFailure(f"the first rank says {what!r}, which this release does not know")
        return "end", b""

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        with self.reporting():
            for bucket in _buckets(tensors):
                flat = torch.cat([one.flatten() for one in bucket])
                dist.all_reduce(flat)
                for one, part in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
                    one.copy_(part.view_as(one))

    def spread(self, tensors: Sequence[Tensor]) -> None:
        with self.reporting(), torch.no_grad():
            for one in tensors:
                sent = one.detach().to(self._device).contiguous()
                dist.broadcast(sent, 0)
                one.copy_(sent)

    def gather(self, content: bytes) -> list[bytes]:
        with self.reporting():
            sizes = torch.zeros(self.count, dtype=torch.long, device=self._device)
            sizes[self.number] = len(content)
            dist.all_reduce(sizes)
            longest = int(sizes.max())
            mine = torch.zeros(max(1, longest), dtype=torch.uint8, device=self._device)
            if content:
                mine[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            every = [torch.empty_like(mine) for _ in range(self.count)]
            dist.all_gather(every, mine)
            return [one[: int(size)].cpu().numpy().tobytes() for one, size in zip(every, sizes, strict=True)]

    def explain(self, reason: str) -> None:
        """Leave the reason for which this rank ends, for the error of the first."""
        self._store.set(f"ended/{self.number}", reason)

    def close(self) -> None:
        """Leave the others. The first rank waits a moment, so that they can read that it is the end before its store closes."""
        with suppress(RuntimeError):
            self._store.set(f"left/{self.number}", "")
            if self.number == 0:
                until_s = time.monotonic() + LEAVE_S
                while time.monotonic() < until_s and not self._store.check([f"left/{n}" for n in range(1, self.count)]):
                    time.sleep(LOOK_S)
        dist.destroy_process_group()

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """What torch raises within, if another rank is gone or silent, becomes `Unavailable`, with what that rank said at its end."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, RuntimeFailure) or not _is_of_others(error):
                raise
            ends = [f"rank {n} ended: {reason}" for n in range(self.count) if n != self.number and (reason := self._end_of(n))]
            why = "; ".join(ends) or f"one of them is gone or hangs ({_first_line(error)})"
            raise Unavailable(f"the {self.count} ranks of this job cannot go on: {why}") from error

    def _end_of(self, number: int) -> str:
        try:
            return self._store.get(f"ended/{number}").decode() if self._store.check([f"ended/{number}"]) else ""
        except RuntimeError:
            return ""

    def _send(self, content: bytes | None, size: int) -> bytes:
        """Send the content to all others, or take it from the first rank."""
        if size == 0:
            return b""
        made = torch.empty(size, dtype=torch.uint8) if content is None else torch.frombuffer(bytearray(content), dtype=torch.uint8)
        made = made.to(self._device)
        dist.broadcast(made, 0)
        return made.cpu().numpy().tobytes() if content is None else content


def backend_of(device: str) -> str:
    """What carries tensors between the ranks."""
    return "nccl" if device.startswith("cuda") else "gloo"


def device_of(device: str) -> str:
    """The device of this rank, which torchrun numbers among those of its machine."""
    number = os.environ.get("LOCAL_RANK")
    return device if device == "cpu" or number is None else f"{device}:{number}"


def join_torchrun(device: str, limit_s: float = LIMIT_S) -> ProcessGroup:
    """The rank that torchrun made of this process. Raises `Unavailable` if the others do not come."""
    try:
        store, number, count = next(rendezvous("env://", timeout=timedelta(seconds=limit_s)))
    except (RuntimeError, ValueError) as error:
        raise Unavailable(f"torchrun's store does not answer ({_first_line(error)})") from error
    return ProcessGroup(PrefixStore("perdure", store), number, count, device, limit_s)


class Door:
    """The first rank's place at which the others meet it; bound to one address alone."""

    def __init__(self, address: str, count: int, limit_s: float = LIMIT_S) -> None:
        """Listen at a free port of this address. Raises `RuntimeFailure` if it is not one of this machine."""
        listening = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            listening.bind((address, 0))
            listening.listen(count)
        except OSError as error:
            listening.close()
            raise RuntimeFailure(f"the ranks of a job cannot meet at {address} ({error.strerror or error}): set another listen") from error
        port = listening.getsockname()[1]
        self.meeting = Meeting(address=address, port=port, token=secrets.token_hex(16), count=count, limit_s=limit_s)
        self._store = TCPStore(
            address,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=limit_s),
            master_listen_fd=listening.detach(),
        )

    def join(self, device: str, start_s: float, look: Callable[[], None] = nothing) -> ProcessGroup:
        """Wait for the others, at most `start_s`; `look` is called meanwhile, and may raise. Raises `Unavailable` if they do not come."""
        here = [f"{self.meeting.token}/here/{n}" for n in range(1, self.meeting.count)]
        until_s = time.monotonic() + start_s
        while not all(self._store.check([key]) for key in here):
            look()
            if time.monotonic() > until_s:
                came = sum(self._store.check([key]) for key in here)
                raise Unavailable(f"{came} of the {len(here)} other ranks of this job came within {start_s:g} s")
            time.sleep(LOOK_S)
        return _joined(self._store, self.meeting, 0, device)


def join(order: RankOrder) -> ProcessGroup:
    """Meet the first rank as one of the others. Raises `Unavailable` if it does not answer in time."""
    meeting = order.meeting
    limit = timedelta(seconds=meeting.limit_s)
    try:
        store = TCPStore(meeting.address, meeting.port, is_master=False, wait_for_workers=False, timeout=limit)
    except RuntimeError as error:
        raise Unavailable(f"the first rank does not answer at {meeting.address}:{meeting.port} ({_first_line(error)})") from error
    store.set(f"{meeting.token}/here/{order.number}", "")
    return _joined(store, meeting, order.number, order.device)


def _joined(store: Store, meeting: Meeting, number: int, device: str) -> ProcessGroup:
    if meeting.address.startswith("127."):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)  # gloo would take the interface of the machine's name
    return ProcessGroup(PrefixStore(meeting.token, store), number, meeting.count, device, meeting.limit_s)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type, together no larger than a bucket unless one is alone."""
    bucket: list[Tensor] = []
    size = 0
    for one in tensors:
        if bucket and (one.dtype != bucket[0].dtype or size + one.nbytes > BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(one)
        size += one.nbytes
    if bucket:
        yield bucket


def _is_of_others(error: RuntimeError) -> bool:
    """Whether an error of torch is about the connection to other ranks."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(
        word in text for word in ("gloo", "nccl", "connection", "timed out", "timeout", "broken pipe")
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
