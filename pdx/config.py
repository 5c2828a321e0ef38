"""Resolved config -> Run: one training, checked, and named by its content."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pdx import checks
from pdx.build import build, check, did_you_mean
from pdx.data import domains, tokens
from pdx.env import Env
from pdx.errors import ConfigError
from pdx.files import digest

if TYPE_CHECKING:
    from pdx.data import Windows


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
    hidden: Any
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
        checks.check_text(self)
        if self.loss.needs_teacher:
            checks.check_signal(self)
        self.hidden.check(self)
        self.eval.check(self)

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

    def num_unique_windows(self, windows: "Windows") -> int:
        """How many of its split's windows it reads: the first ones, whatever its seed."""
        return min(self.num_windows, windows.num_windows)

    def num_epochs(self, windows: "Windows") -> float:
        """How often it reads its split."""
        return self.num_windows / windows.num_windows

    def kd_weight(self, fraction: float) -> float:
        """Weight of the loss beside the cross-entropy, at ``fraction`` of training."""
        return self.mix(fraction) if self.loss.needs_teacher else self.loss.own_weight

    @property
    def reads_teacher(self) -> bool:
        """Whether any number of it depends on a teacher."""
        return self.loss.needs_teacher or self.text.needs_teacher

    @property
    def reads_domains(self) -> bool:
        """Whether any number of it depends on what domain a token is of."""
        routed = self.loss.needs_teacher and len(self.routing.domains) > 0
        return self.data.domains is not None and (routed or self.eval.reads_domains)

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
        named["eval"] |= self.eval.identify()
        named["data"] = tokens.identity(self.data)
        if self.reads_domains:
            named["domains"] = domains.labelling(self.data)
        if self.hidden.exists:
            named["hidden"] = identity(self.hidden)
        if self.text.exists:
            named["text"] = identity(self.text) | self.text.identify(self)
        if self.loss.needs_teacher:
            named["teacher"] = self.teacher.identify(self)
        if self.is_stored and self.store.precision is not None:
            named["store_precision"] = self.store.precision
        if self.is_stored and self.hidden.exists:
            named["store_hidden_precision"] = self.store.hidden_precision
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
    checks.check_ranks(run, env.gpus_per_run, env.sharding)
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
