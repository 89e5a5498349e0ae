"""Decoding one row a sequence, with transformers' own caches: for models that a token tree cannot compute.

What several prompts begin with is computed once and copied, and a conversation that goes on is continued from its own row. Rows are
padded on the left, where a recurrent layer has no state yet that padding could change; so rows that continue others are computed together
only if they have as many new tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from perdure.envs.policy import Ids
from perdure.learners.model.row_cache import CachedRow, joined, size_bytes
from perdure.learners.model.tree import common_prefix

if TYPE_CHECKING:
    from perdure.learners.model.adapted_model import AdaptedModel

MOST_BYTES = 2**29
"""Of the rows that are kept."""
LEAST_SHARED = 32
"""Tokens that prompts must have in common before these are computed by themselves."""
LEAST_FILLED = 0.7
"""Of the places in a pass, the share that tokens must fill."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Read:
    """A sequence that was computed, and the hidden state of its last token."""

    row: CachedRow
    hidden_C: Tensor


class RowDecoding:
    """`Decoding` by rows. Of ended rows, the last ones are kept up to `most_bytes`."""

    def __init__(self, model: AdaptedModel, *, most_bytes: int = MOST_BYTES) -> None:
        self._model = model
        self._most_bytes = most_bytes
        self._kept: dict[Ids, CachedRow] = {}
        """The last used at the end."""
        self._bytes = 0
        """Of the rows that are kept."""
        self._cache = model.new_cache()
        self._rows: list[list[int]] = []
        """The tokens of each row that were computed."""
        self._mask_RS: Tensor | None = None
        self.computed = 0

    @property
    def size(self) -> int:
        return sum(map(len, self._kept))

    def unknown(self, prompt: Ids) -> Ids:
        known = self._known(prompt)
        number = list(self._kept).index(known) if known else -1
        return (number, *prompt[len(known) :])

    def start(self, prompts: Sequence[Ids]) -> Tensor:
        self.computed = 0
        reads = self._read(sorted(set(prompts)))
        self._begin([reads[prompt].row for prompt in prompts], [list(prompt) for prompt in prompts])
        return torch.stack([reads[prompt].hidden_C for prompt in prompts])

    def step(self, tokens: Sequence[int]) -> Tensor:
        device = self._model.device
        positions_R1 = torch.tensor([[len(row)] for row in self._rows], device=device)
        if self._mask_RS is not None:
            self._mask_RS = torch.cat([self._mask_RS, self._mask_RS.new_ones(len(tokens), 1)], 1)
        ids_R1 = torch.tensor([[token] for token in tokens], device=device)
        hidden_R1C = self._model.forward_rows(ids_R1, positions_R1, self._cache, self._mask_RS)
        for row, token in zip(self._rows, tokens, strict=True):
            row.append(token)
        return hidden_R1C[:, -1]

    def keep(self, rows: Sequence[int]) -> None:
        going = set(rows)
        self._store([row for row in range(len(self._rows)) if row not in going])
        self._begin([self._row(row) for row in rows], [self._rows[row] for row in rows])

    def finish(self) -> None:
        self._store(range(len(self._rows)))
        self._cache, self._rows, self._mask_RS = self._model.new_cache(), [], None

    def _begin(self, rows: Sequence[CachedRow], ids: list[list[int]]) -> None:
        """Decode copies of these rows from now on."""
        self._cache, self._rows = joined(rows), ids
        self._mask_RS = _mask([row.length for row in rows], 0, self._model.device)

    def _row(self, row: int) -> CachedRow:
        return CachedRow(cache=self._cache, place=row, length=len(self._rows[row]))

    def _store(self, rows: Sequence[int]) -> None:
        """Keep what these rows have computed."""
        for row in rows:
            self._add(tuple(self._rows[row]), self._row(row))

    def _add(self, ids: Ids, row: CachedRow) -> None:
        if ids in self._kept:
            return
        self._kept[ids] = CachedRow(cache=joined([row]), place=0, length=row.length)
        self._bytes += size_bytes(self._kept[ids].cache)
        while self._bytes > self._most_bytes and len(self._kept) > 1:
            self._bytes -= size_bytes(self._kept.pop(next(iter(self._kept))).cache)

    def _known(self, prompt: Ids) -> Ids:
        """The longest sequence that was computed and that the prompt continues; empty if there is none."""
        return max((ids for ids in self._kept if len(ids) < len(prompt) and prompt[: len(ids)] == ids), key=len, default=())

    def _read(self, prompts: Sequence[Ids]) -> dict[Ids, _Read]:
        """Compute distinct prompts, sorted."""
        known = {prompt: self._known(prompt) for prompt in prompts}
        for ids in known.values():
            if ids:
                self._kept[ids] = self._kept.pop(ids)  # used last
        shared = _shared([prompt for prompt in prompts if not known[prompt]])
        first = sorted({shared.get(prompt, prompt) for prompt in prompts if not known[prompt]}, key=len)
        found: dict[Ids, _Read] = {}
        for part in _alike(first):
            found |= self._pass(part, [None] * len(part), part)
        later = defaultdict(list)
        for prompt in prompts:
            if prompt in found:
                continue
            before = known[prompt] or shared[prompt]
            row = self._kept[before] if known[prompt] else found[before].row
            later[len(prompt) - len(before)].append((prompt, row, prompt[len(before) :]))
        for ids in set(shared.values()):
            self._add(ids, found[ids].row)
        for group in later.values():
            whole, rows, new = zip(*group, strict=True)
            found |= self._pass(whole, rows, new)
        return found

    def _pass(self, whole: Sequence[Ids], before: Sequence[CachedRow | None], new: Sequence[Ids]) -> dict[Ids, _Read]:
        """Compute the new tokens of sequences that all continue rows, or all continue none."""
        device, longest = self._model.device, max(map(len, new))
        self.computed += sum(map(len, new))
        rows = [row for row in before if row is not None]
        cache = joined(rows) if rows else self._model.new_cache()
        lengths = [row.length for row in rows] if rows else [len(one) for one in new]
        ids_RT = torch.tensor([[0] * (longest - len(one)) + list(one) for one in new], device=device)
        start_R1 = torch.tensor([[length] for length in lengths], device=device) if rows else ids_RT.new_zeros(len(new), 1)
        step_RT = torch.tensor([[*[0] * (longest - len(one)), *range(len(one))] for one in new], device=device)
        hidden_RTC = self._model.forward_rows(ids_RT, start_R1 + step_RT, cache, _mask(lengths, longest if rows else 0, device))
        return {
            ids: _Read(row=CachedRow(cache=cache, place=place, length=len(ids)), hidden_C=hidden_RTC[place, -1])
            for place, ids in enumerate(whole)
        }


def _mask(lengths: Sequence[int], more: int, device: torch.device) -> Tensor | None:
    """0 where shorter rows are padded on the left, 1 at their tokens and at `more` that follow; None if all have one length."""
    longest = max(lengths)
    if min(lengths) == longest:
        return None
    return torch.tensor([[0] * (longest - length) + [1] * (length + more) for length in lengths], device=device)


def _shared(prompts: Sequence[Ids]) -> dict[Ids, Ids]:
    """For sorted prompts, what each has in common with its neighbours, if that is worth a pass of its own."""
    groups: list[tuple[int, list[Ids]]] = []
    for prompt in prompts:
        if groups:
            length, members = groups[-1]
            common = common_prefix(members[-1], prompt[:-1])
            if common >= LEAST_SHARED and (len(members) == 1 or 2 * common >= length):
                groups[-1] = min(length, common), [*members, prompt]
                continue
        groups.append((len(prompt) - 1, [prompt]))
    return {prompt: prompt[:length] for length, members in groups if len(members) > 1 for prompt in members}


def _alike(prompts: Sequence[Ids]) -> list[list[Ids]]:
    """Cut sequences, the shortest first, into passes of sequences of about one length."""
    found: list[list[Ids]] = []
    for prompt in prompts:
        if found and sum(map(len, found[-1])) + len(prompt) >= LEAST_FILLED * (len(found[-1]) + 1) * len(prompt):
            found[-1].append(prompt)
        else:
            found.append([prompt])
    return found
