"""What can be set: every section of the configuration with its defaults, its limits, and the meaning of each setting.

Unknown keys are errors. Left out: the file (`config_file.py`), and the sections of the stream (`stream/stream_settings.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, field_validator, model_validator

from perdure.agent.cluster.cluster_settings import ClusterSection
from perdure.agent.config_section import Section
from perdure.agent.device_settings import DevicesSection, check_cards
from perdure.agent.stream.stream_settings import StreamSection
from perdure.agent.telemetry.telemetry_settings import LogSection, NotifySection, TelemetrySection
from perdure.learners.option_parsing import every_option, parse_options, read_by
from perdure.learners.options import ORACLE, OWN
from perdure.memory.errors import InputError
from perdure.memory.json_value import Document

if TYPE_CHECKING:
    from perdure.envs.environment import Environment
    from perdure.envs.sandbox.sandbox_settings import Sandbox

VLLM_TEMPERATURE = 2.0
"""The highest temperature that vLLM's server takes."""


def check_learner(name: str) -> None:
    """Raise `InputError` if no learner has this name."""
    if name not in OWN:
        near = get_close_matches(name, OWN, n=1)
        raise InputError(f"no learner {name!r}: there are {', '.join(OWN)}" + (f"; did you mean {near[0]}?" if near else ""))


def _known_learner(name: str) -> str:
    check_learner(name)
    return name


def _known_options(options: Document) -> Document:
    every_option(options)
    return options


LearnerName = Annotated[str, AfterValidator(_known_learner)]
LearnerOptions = Annotated[Document, AfterValidator(_known_options)]
"""Of whichever learners read them."""


class PlaySection(Section):
    """How live tasks are played."""

    width: int = Field(default=64, ge=1, le=4096, description="episodes played at once")
    temperature: float = Field(default=1.0, gt=0, le=10, description="sampling temperature of live episodes, and of the gate's")
    members: int = Field(default=8, ge=1, le=256, description="episodes of each live task; learning compares them")


class ChatSection(Section):
    """How conversations become tokens, by the chat template of the model."""

    thoughts: Literal["keep", "drop"] = Field(
        default="keep",
        description="thoughts of earlier answers: keep, as they were sampled; drop: each turn is a sequence of its own, without them",
    )
    template_options: Document = Field(
        default_factory=dict, description="variables of the template, such as { enable_thinking = false }; `perdure doctor` checks them"
    )
    show_special: tuple[str, ...] = Field(
        default=(), strict=False, description="special tokens that environments see in answers, such as ['<answer>', '</answer>']"
    )


class LearnSection(Section):
    """When and how a candidate is made."""

    learner: LearnerName = Field(default="grpo", description="grpo, reinforce, iterative-sft, self-sft, trace-sft, sft or sdft")
    every_episodes: int = Field(default=336, ge=0, description="learn after this many new episodes; 0 for never")
    max_cycles: int = Field(default=3, ge=1, description="`perdure run --until-promoted` ends after this many verdicts")
    options: LearnerOptions = Field(default_factory=dict, description="options of learners; `perdure learn --help` explains them")


class GateSection(Section):
    """How much a candidate must show before it serves."""

    profile: Literal["economy", "standard", "strict"] = Field(
        default="standard", description="economy, standard or strict: each next one detects smaller losses, with more episodes"
    )
    temperature: float | Literal["play"] = Field(
        default="play", description="sampling temperature of its answers: 'play' for that of live episodes, or a number; 0 is greedy"
    )
    samples: int = Field(default=4, ge=1, le=64, description="answers to each held-out task on each side; one if they are greedy")
    over_time: Literal["each", "e-lond"] = Field(
        default="each",
        description="each: alpha bounds the errors of each gate; e-lond: it bounds the share of false ones among all promotions",
    )
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="the highest probability of promoting a candidate that should be rejected")
    critical: tuple[str, ...] = Field(default=(), strict=False, description="environments of the stream with a tighter margin")
    panel: bool = Field(default=True, description="whether the capability panel refuses candidates that lost a skill outside of the stream")

    @field_validator("temperature", mode="before")
    @classmethod
    def _in_range(cls, value: Any) -> Any:
        if value != "play" and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10):
            raise ValueError(f"{value!r} is neither 'play' nor a number from 0 (greedy) to 10")
        return value


class ScheduleSection(Section):
    """Learning at set times, beside `learn.every_episodes`."""

    cron: str = Field(default="", description="five crontab fields, such as '0 3 * * *' for every night at three; empty for never")
    zone: str = Field(default="", description="the time zone of cron, such as 'Europe/Berlin'; empty for that of this machine")
    every_minutes: int = Field(default=0, ge=0, le=527_040, description="learn this often; 0 for never")
    make_up: bool = Field(default=True, description="whether a set time that passed while nothing ran, or something else, is made up for")

    @property
    def by_the_clock(self) -> bool:
        """Whether learning starts at set times."""
        return bool(self.cron or self.every_minutes)

    @field_validator("cron")
    @classmethod
    def _crontab(cls, cron: str) -> str:
        if cron:
            from perdure.agent.supervision.crontab import parse_crontab

            try:
                parse_crontab(cron)
            except ValueError as error:
                raise ValueError(f"{error}; write five crontab fields, such as '0 3 * * *'") from error
        return cron

    @model_validator(mode="after")
    def _known_zone(self) -> ScheduleSection:
        if self.cron or self.zone:
            from perdure.agent.supervision.crontab import zone_named

            zone_named(self.zone)
        return self


_Names = TypeVar("_Names", tuple[str, ...], dict[str, "AllowanceSection"])


class AllowanceSection(Section):
    """What one environment or source may use, where that differs from the rest."""

    memory_mib: int | None = Field(default=None, ge=64, description="MiB of address space for each process")
    cpu_s: int | None = Field(default=None, ge=1, description="seconds of processor time for one episode")
    network: bool | None = Field(default=None, description="whether it may use the network")
    variables: tuple[str, ...] = Field(default=(), strict=False, description="environment variables that it gets beside those of all")


class SandboxSection(Section):
    """Environments run in separate processes with these limits, unless they are trusted."""

    trusted: tuple[str, ...] = Field(
        default=("perdure:",),
        strict=False,
        description="sources ('perdure:') and names without options ('py:prices:Prices') that run in Perdure's own processes",
    )
    memory_mib: int = Field(default=2048, ge=64, description="MiB of address space for each process")
    cpu_s: int = Field(default=300, ge=1, description="seconds of processor time for one episode")
    network: bool = Field(default=False, description="whether environments may use the network, including this machine's own")
    unconfined: bool = Field(
        default=False, description="whether they may run on a machine that gives no namespaces: they can then change what you can"
    )
    variables: tuple[str, ...] = Field(default=(), strict=False, description="environment variables that they get")
    python: dict[str, str] = Field(default_factory=dict, description="another interpreter for a source: { gem = '.venv-gem/bin/python' }")
    only: dict[str, AllowanceSection] = Field(
        default_factory=dict, description="other limits for a source or a name without options: { 'py:shop:Shop' = { network = true } }"
    )

    @field_validator("trusted", "only")
    @classmethod
    def _named(cls, names: _Names) -> _Names:
        for name in names:
            if ":" not in name or "?" in name:
                raise ValueError(f"{name!r} is neither a source, such as 'textarena:', nor a name without options, such as 'gym:Taxi-v4'")
        return names


class SuperviseSection(Section):
    """What happens if processes die or hang."""

    tries: int = Field(default=5, ge=1, description="deaths in a row, or failed jobs in a row, after which Perdure gives up")
    hang_s: int = Field(
        default=1800, ge=1, description="a process without progress for this many seconds is killed; loading the model must take less"
    )


class DiskSection(Section):
    """How much of the disk the home may take."""

    budget_gib: float = Field(
        default=0.0, ge=0, description="GiB for the home, 0 for no limit; learning stops at 90 % of it, play at 100 %"
    )
    floor_gib: float = Field(
        default=1.0, ge=0, description="GiB that stay free on its disk; learning stops below twice this, play below it"
    )


class VllmSection(Section):
    """The vLLM server, if `engine` is vllm."""

    python: str = Field(default="", description="the Python that has vLLM, such as '.venv-vllm/bin/python'; empty for Perdure's own")
    dtype: Literal["bfloat16", "float16", "float32"] = Field(default="bfloat16", description="its precision: bfloat16, float16 or float32")
    memory_share: float = Field(
        default=0.45, gt=0, lt=1, description="share of the device's memory for the server; the rest is for learning"
    )
    context_tokens: int = Field(default=8192, ge=16, description="the longest sequence in tokens; the model may have a smaller limit")
    tensor_parallel: int = Field(
        default=1, ge=1, le=64, description="cards of each server; devices.engine has as many servers as this goes into its cards"
    )
    max_rank: Literal[8, 16, 32, 64, 128, 256] = Field(default=16, description="the highest rank of an adapter")
    adapters: int = Field(default=4, ge=1, le=64, description="adapters in one batch; each takes memory of the device")
    adapters_in_memory: int = Field(default=16, ge=1, le=1024, description="adapters in main memory, at least as many")
    eager: bool = Field(default=False, description="compile nothing: the server starts sooner and answers more slowly")
    sleep: bool = Field(default=False, description="whether it frees its memory while a job makes an update; live play then waits")
    start_timeout_s: int = Field(default=600, ge=1, description="seconds that its start may take")
    answer_timeout_s: int = Field(default=300, ge=1, description="seconds that one batch may take; after that the server counts as hung")

    @model_validator(mode="after")
    def _room_for_all(self) -> VllmSection:
        if self.adapters_in_memory < self.adapters:
            raise ValueError(f"adapters_in_memory = {self.adapters_in_memory} is less than adapters = {self.adapters}: make it as many")
        return self


class WebSection(Section):
    """The page and the API."""

    enabled: bool = Field(default=True, description="whether `perdure run` serves them; `perdure web` always does")
    host: str = Field(default="127.0.0.1", min_length=1, description="the address to listen on; another than loopback needs a token file")
    port: int = Field(default=8377, ge=1, le=65535, description="the port to listen on")
    allowed_hosts: tuple[str, ...] = Field(
        default=(), strict=False, description="names, beside those of loopback, under which browsers may ask for it: ['perdure.example']"
    )
    token_file: str = Field(
        default="",
        description="a file with the token, or a link to one; another token in it counts at once; empty for run/token in the home, which "
        "is made if missing",
    )
    studies: str = Field(default="studies", min_length=1, description="the folder in which the studies are that are shown")


class Config(Section):
    """Everything that can be set."""

    model: str = Field(
        default="smollm2-135m", min_length=1, description="the base model: smollm2-135m, a folder with safetensors, or a hub id"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="the same seed gives the same stream of tasks")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="cpu or cuda")
    engine: Literal["transformers", "vllm"] = Field(default="transformers", description="what samples: transformers, or vllm (a server)")
    chat: ChatSection = ChatSection()
    play: PlaySection = PlaySection()
    stream: StreamSection = StreamSection()
    learn: LearnSection = LearnSection()
    gate: GateSection = GateSection()
    schedule: ScheduleSection = ScheduleSection()
    sandbox: SandboxSection = SandboxSection()
    supervise: SuperviseSection = SuperviseSection()
    disk: DiskSection = DiskSection()
    log: LogSection = LogSection()
    telemetry: TelemetrySection = TelemetrySection()
    notify: NotifySection = NotifySection()
    devices: DevicesSection = DevicesSection()
    vllm: VllmSection = VllmSection()
    web: WebSection = WebSection()
    cluster: ClusterSection = ClusterSection()

    @property
    def takes_turns(self) -> bool:
        """Whether live play and jobs use the device in turn: a CPU, or a GPU whose memory is not split between them."""
        return self.device == "cpu" or (self.engine == "vllm" and self.vllm.sleep)

    @property
    def servers(self) -> tuple[tuple[int, ...], ...]:
        """The cards of each vLLM server; one server without cards if `devices.engine` is empty."""
        return self.devices.servers(self.vllm.tensor_parallel)

    @property
    def gate_sampling(self) -> tuple[float, int]:
        """The temperature of the gate's answers, and how many there are to each task: greedy ones are all the same."""
        temperature = self.play.temperature if self.gate.temperature == "play" else self.gate.temperature
        return temperature, self.gate.samples if temperature > 0 else 1

    def environment(self, name: str) -> Environment:
        """Load an environment, in a process of its own unless it is trusted. Raises as `envs/registry.py:load` does."""
        from perdure.envs.registry import load

        return load(name, self.allowed())

    def environments(self, names: Iterable[str]) -> dict[str, Environment]:
        """Load several at once, by name. Raises as `environment` does."""
        from perdure.envs.registry import load_all

        return load_all(names, self.allowed())

    def allowed(self) -> Sandbox:
        """What environments may do."""
        from perdure.envs.sandbox.sandbox_settings import Allowance, Sandbox

        only = {name: Allowance(**allowed.model_dump()) for name, allowed in self.sandbox.only.items()}
        return Sandbox(**self.sandbox.model_dump(exclude={"only"}), only=only)

    def learner_options(self, learner: str, given: Document | None = None) -> Document:
        """Those of `[learn.options]` that this learner reads, replaced by those given.

        Raises `InputError` if one of the given ones is not an option of this learner, or if the engine does not support them.
        """
        chosen = {"seed": self.seed, **read_by(learner, self.learn.options), **(given or {})}
        options = parse_options(learner, chosen)
        if self.engine == "vllm":
            if options.common.temperature > VLLM_TEMPERATURE:
                raise InputError(f"temperature={options.common.temperature} is more than vLLM takes: {VLLM_TEMPERATURE} at most")
            if options.tuning.rank > self.vllm.max_rank:
                raise InputError(
                    f"rank={options.tuning.rank} is more than vllm.max_rank = {self.vllm.max_rank}: raise that, or lower the rank"
                )
            if options.tuning.tuning == "full":
                raise InputError("tuning=full changes all weights, and vLLM serves LoRA adapters only: set engine = 'transformers'")
        values = options.flat()
        if values.get("demos", ORACLE) != ORACLE:  # a job reads it, perhaps one of a daemon in another folder
            values["demos"] = str(Path(str(values["demos"])).expanduser().resolve())
        return {name: values[name] for name in chosen}

    @model_validator(mode="after")
    def _vllm_takes_it(self) -> Config:
        if self.engine == "vllm":
            for name, temperature in (("play", self.play.temperature), ("gate", self.gate_sampling[0])):
                if temperature > VLLM_TEMPERATURE:
                    raise ValueError(f"{name}.temperature = {temperature} is more than vLLM takes: {VLLM_TEMPERATURE} at most")
        self.learner_options(self.learn.learner)
        return self

    @model_validator(mode="after")
    def _cards_fit(self) -> Config:
        check_cards(self.devices, self.device, self.engine, self.vllm.tensor_parallel, sleep=self.vllm.sleep)
        return self

    @model_validator(mode="after")
    def _critical_is_played(self) -> Config:
        for name in self.gate.critical:
            if name not in self.stream.names:
                raise ValueError(f"gate.critical names {name!r}, which [stream] does not; write it there in the same words")
        return self
