"""Resolved config -> Run: one training, checked, and named by its content."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pdx.build import build, check, did_you_mean
from pdx.data import tokens
from pdx.env import Env
from pdx.errors import ConfigError
from pdx.files import digest


def identity(component: Any) -> dict[str, Any]:
    """What a component is: its class, the version of its mathematics, and every field."""
    cls = type(component)
    named = {"_target_": f"{cls.__module__}.{cls.__qualname__}", "version": cls.version}
    return named | asdict(component)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: a flat set of frozen components, one per axis.

    ``eval_teacher`` is the teacher that evaluation compares with, named separately so that runs
    that read no teacher are one shared control. ``weak_teacher`` is what a text compares it with.
    """

    data: Any
    text: Any
    teacher: Any
    weak_teacher: Any
    eval_teacher: Any
    student: Any
    signal: Any
    temperature: Any
    store: Any
    loss: Any
    mix: Any
    routing: Any
    schedule: Any
    optim: Any
    train: Any
    eval: Any

    def __post_init__(self) -> None:
        batch_tokens = self.batch_tokens
        check(
            self.train.num_tokens >= batch_tokens,
            "train.num_tokens",
            self.train.num_tokens,
            f"must hold one step of train.batch_size * data.seq_len = {batch_tokens} tokens; "
            f"set at least {batch_tokens}",
        )
        for key in ("teacher", "weak_teacher"):
            if getattr(self, key).is_same:
                raise ConfigError(
                    f"{key}=same: means the run's own teacher, and is for eval_teacher only; "
                    "use teacher=trained, pretrained or none."
                )
        self._check_text()
        if self.loss.needs_teacher:
            self._check_signal()

    def _check_signal(self) -> None:
        name = type(self.loss).__name__
        if not self.teacher.exists:
            raise ConfigError(
                f"teacher=none: {name} needs a teacher; use teacher=trained or "
                "teacher=pretrained, or loss=none."
            )
        if self.loss.needs_full_signal and not self.signal.is_full:
            kept = type(self.signal).__module__.rpartition(".")[2]
            raise ConfigError(
                f"signal={kept}: {name} reads the teacher at every token, which no truncated or "
                "drawn signal holds; use signal=full."
            )
        if self.loss.needs_logits and getattr(self.signal, "num_draws", 0):
            drawn = type(self.signal).__module__.rpartition(".")[2]
            raise ConfigError(
                f"signal={drawn}: {name} compares logits, and draws have counts; use signal=topk "
                "or signal=full, or a loss on probabilities such as loss=forward_kl."
            )
        if self.loss.needs_closed_signal and not self.signal.closed:
            raise ConfigError(
                f"signal.tail={getattr(self.signal, 'tail', None)}: {name} compares distributions "
                "that must both sum to one on the support; use signal.tail=bucket or signal=full."
            )
        shift, length = self.routing.shift, self.data.seq_len
        allowed = f"must not be a multiple of data.seq_len={length}, which shifts nothing"
        check(shift == 0 or shift % length != 0, "routing.shift", shift, allowed)
        self._check_temperature()
        vocab_size = self.data.vocab_size
        top_k = getattr(self.signal, "top_k", 1)
        if vocab_size is not None:
            check(
                top_k <= vocab_size,
                "signal.top_k",
                top_k,
                f"must not exceed the vocabulary, data.vocab_size={vocab_size}; "
                f"use signal.top_k={vocab_size} or less",
            )
        if self.is_stored:
            self.store.check_serves(self.signal, self.temperature)
            self.store.check_text(self.text)

    def _check_text(self) -> None:
        """Whether the text can be made at all."""
        name = type(self.text).__module__.rpartition(".")[2]
        needed = [("teacher", self.text.needs_teacher)]
        needed.append(("teacher@weak_teacher", self.text.needs_weak_teacher))
        for key, is_needed in needed:
            if is_needed and not getattr(self, key.rpartition("@")[2]).exists:
                raise ConfigError(
                    f"{key}=none: text={name} is made by it; use {key}=trained or "
                    f"{key}=pretrained, or text=corpus."
                )
        self.text.check(self)

    def _check_temperature(self) -> None:
        """Whether the signal can be read at the temperature at all."""
        drawn, heat = bool(getattr(self.signal, "num_draws", 0)), self.temperature
        name = type(heat).__name__
        if drawn and heat.constant != 1.0:
            raise ConfigError(
                f"temperature: {name} tempers the teacher, and a signal of draws has counts of the "
                "distribution at temperature 1; use temperature=constant with "
                "temperature.value=1.0, or signal=topk."
            )
        one_sided = heat.constant != 1.0 and not heat.tempers_student
        if one_sided and getattr(self.signal, "tail", None) == "decoupled":
            raise ConfigError(
                f"signal.tail=decoupled: tempers both sides of what is kept, and {name} the "
                "teacher alone; set temperature.temper_student=true, or use signal.tail=bucket."
            )

    def check_ranks(self, num_ranks: int) -> None:
        """Refuse a number of processes that cannot share a step's batch evenly."""
        if num_ranks > 1 and self.is_recorded:
            raise ConfigError(
                f"env.gpus_per_run={num_ranks}: a teacher is recorded in one process; use "
                "env.gpus_per_run=1, or store.recorded=[]."
            )
        sizes = {"train.batch_size": self.train.batch_size}
        for teacher in (self.teacher, self.evaluation_teacher):
            if hasattr(teacher, "batch_size"):  # it is trained here, by as many processes
                sizes["teacher.batch_size"] = teacher.batch_size
        for key, size in sizes.items():
            if size % num_ranks:
                allowed = ", ".join(str(n) for n in range(1, size + 1) if size % n == 0)
                raise ConfigError(
                    f"env.gpus_per_run={num_ranks}: does not divide {key}={size}, and each process "
                    f"takes an equal part of every batch; use one of {allowed}, or another {key}."
                )

    @property
    def batch_tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.train.batch_size * self.data.seq_len

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.train.num_tokens // self.batch_tokens

    @property
    def num_windows(self) -> int:
        """Windows read over the whole training, repeats counted."""
        return self.num_steps * self.train.batch_size

    def kd_weight(self, fraction: float) -> float:
        """Weight of the loss beside the cross-entropy, at ``fraction`` of training."""
        return self.mix(fraction) if self.loss.needs_teacher else self.loss.own_weight

    @property
    def reads_teacher(self) -> bool:
        """Whether any number of it depends on a teacher."""
        return self.loss.needs_teacher or self.text.needs_teacher

    def teacher_id(self, teacher: Any) -> str:
        """Content hash of a teacher on this run's data."""
        named = teacher.identify(self)
        return named.get("run_id") or digest(named, 12)

    @property
    def is_stored(self) -> bool:
        """Whether the teacher's word is read from a store."""
        return self.loss.needs_teacher and self.signal.stored and self.store.exists

    @property
    def is_recorded(self) -> bool:
        """Whether what is stored is what the teacher said while it was being trained."""
        return self.is_stored and bool(self.store.recorded)

    @property
    def evaluation_teacher(self) -> Any:
        """The teacher that evaluation compares with."""
        return self.teacher if self.eval_teacher.is_same else self.eval_teacher

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that its numbers depend on, and nothing else.

        Of the store only its precision counts: what it serves is otherwise the teacher's word.
        """
        read = ["student", "loss", "schedule", "optim", "train", "eval"]
        if self.loss.needs_teacher:
            read += ["signal", "temperature", "mix", "routing"]
        named: dict[str, Any] = {name: identity(getattr(self, name)) for name in read}
        named["data"] = tokens.identity(self.data)
        if self.text.exists:
            named["text"] = identity(self.text) | self.text.identify(self)
        if self.loss.needs_teacher:
            named["teacher"] = self.teacher.identify(self)
        if self.is_stored and self.store.precision is not None:
            named["store_precision"] = self.store.precision
        if self.is_recorded:
            named["recorded"] = True
        named["eval_teacher"] = self.evaluation_teacher.identify(self)
        return named

    @cached_property
    def run_id(self) -> str:
        """Content hash of the identity: the run's name everywhere."""
        return digest(self.identity, 12)


def run_of(cfg: DictConfig) -> tuple[Run, Env]:
    """Build and check everything that a resolved config names.

    Raises:
        ConfigError: any key, value or combination that cannot be run.
    """
    run, env = run_of_resolved(resolved(cfg))
    env.check_outputs()
    return run, env


def config_of(run: Run, env: Env) -> dict[str, Any]:
    """The config that makes this run, from its parts: what a run folder keeps."""
    parts = {f.name: getattr(run, f.name) for f in fields(Run)} | {"env": env}
    return {name: _node(part) for name, part in parts.items()}


def _node(component: Any) -> dict[str, Any]:
    node = identity(component)
    node.pop("version")
    return node


def run_of_resolved(config: Mapping[str, Any]) -> tuple[Run, Env]:
    """As ``run_of``, from the plain dictionary that a plan or a run folder holds."""
    known = [*(f.name for f in fields(Run)), "env"]
    for key in config:
        if key not in known:
            raise ConfigError(
                f"{key}={config[key]}: unknown key.{did_you_mean(key, known)} "
                f"Known: {', '.join(known)}."
            )
    env = build(config["env"], "env")
    parts = {}
    for field in fields(Run):
        if config.get(field.name) is None:
            raise ConfigError(f"{field.name}: missing from the config; name a value of this axis.")
        parts[field.name] = build(config[field.name], field.name, env.packages)
    run = Run(**parts)
    run.check_ranks(env.gpus_per_run)
    return run, env


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain data, without Hydra's own part.

    Raises:
        ConfigError: an interpolation that does not resolve.
    """
    plain = {}
    for key in cfg:
        if key == "hydra":
            continue
        node = cfg._get_node(key)
        try:
            container = OmegaConf.is_config(node)
            plain[str(key)] = OmegaConf.to_container(node, resolve=True) if container else cfg[key]
        except OmegaConfBaseException as err:
            raise ConfigError(f"{key}: {str(err).splitlines()[0]}") from err
    return plain
