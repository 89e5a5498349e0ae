"""The section [devices]: which cards sample and which learn, and what of it cannot be.

Left out: whether the cards are there (`agent/processes/vllm/cards.py`), since a configuration is also read on other machines.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from perdure.agent.config_section import Section

Card = Annotated[int, Field(ge=0, le=1023)]


class DevicesSection(Section):
    """Which cards sample and which learn, if `device` is cuda."""

    engine: tuple[Card, ...] = Field(
        default=(), strict=False, description="cards that sample, such as [0, 1], numbered as nvidia-smi does; empty for the first"
    )
    learner: tuple[Card, ...] = Field(
        default=(), strict=False, description="cards that learn, such as [2]; empty for the first; others than engine's: both go on at once"
    )

    @field_validator("engine", "learner")
    @classmethod
    def _each_once(cls, cards: tuple[int, ...]) -> tuple[int, ...]:
        for card in cards:
            if cards.count(card) > 1:
                raise ValueError(f"it names card {card} twice")
        return cards

    @property
    def apart(self) -> bool:
        """Whether no card both samples and learns."""
        return bool(self.engine and self.learner) and not set(self.engine) & set(self.learner)

    def servers(self, tensor_parallel: int) -> tuple[tuple[int, ...], ...]:
        """The cards of each vLLM server; one server without cards of its own if none are named."""
        starts = range(0, len(self.engine), tensor_parallel)
        return tuple(self.engine[start : start + tensor_parallel] for start in starts) or ((),)


def check_cards(devices: DevicesSection, device: str, engine: str, tensor_parallel: int, *, sleep: bool) -> None:
    """Raise `ValueError` if the cards do not go with the device, the engine, or vLLM's settings."""
    if device == "cpu":
        for name, named in (("engine", devices.engine), ("learner", devices.learner)):
            if named:
                raise ValueError(f"devices.{name} names cards, and device = 'cpu' uses none: set device = 'cuda'")
    cards = len(devices.engine)
    if engine == "transformers":
        if cards > 1:
            raise ValueError(
                f"devices.engine names {cards} cards, and engine = 'transformers' samples on one: name one, or set engine = 'vllm'"
            )
        return
    if tensor_parallel > 1 and not cards:
        raise ValueError(f"vllm.tensor_parallel = {tensor_parallel} needs cards: name them in devices.engine")
    if cards % tensor_parallel:
        raise ValueError(f"vllm.tensor_parallel = {tensor_parallel} does not divide the {cards} cards of devices.engine")
    if sleep and devices.apart:
        raise ValueError("vllm.sleep = true, but engine and learner have cards of their own: leave it false")
