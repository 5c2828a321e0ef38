"""Which values of the axes go together: what means nothing is refused before anything is made."""

from typing import TYPE_CHECKING

from pdx.build import check, value_name
from pdx.data.domains import refuse_unknown
from pdx.errors import ConfigError

if TYPE_CHECKING:
    from pdx.config import Run


def check_signal(run: "Run") -> None:
    """Whether loss, signal, temperature, routing and store go together."""
    name = type(run.loss).__name__
    if not run.teacher.exists:
        raise ConfigError(
            f"teacher=none: {name} needs a teacher; use teacher=trained or "
            "teacher=pretrained, or loss=none."
        )
    if run.loss.needs_full_signal and not run.signal.is_full:
        kept = value_name(run.signal)
        raise ConfigError(
            f"signal={kept}: {name} reads the teacher at every token, which no truncated or "
            "drawn signal holds; use signal=full."
        )
    if run.loss.needs_logits and getattr(run.signal, "num_draws", 0):
        drawn = value_name(run.signal)
        raise ConfigError(
            f"signal={drawn}: {name} compares logits, and draws have counts; use signal=topk "
            "or signal=full, or a loss on probabilities such as loss=forward_kl."
        )
    if run.loss.needs_closed_signal and not run.signal.closed:
        raise ConfigError(
            f"signal.tail={getattr(run.signal, 'tail', None)}: {name} compares distributions "
            "that must both sum to one on the support; use signal.tail=bucket or signal=full."
        )
    shift, length = run.routing.shift, run.data.seq_len
    allowed = f"must not be a multiple of data.seq_len={length}, which shifts nothing"
    check(shift == 0 or shift % length != 0, "routing.shift", shift, allowed)
    _check_temperature(run)
    _check_domains(run)
    vocab_size = run.data.vocab_size
    top_k = getattr(run.signal, "top_k", 1)
    if vocab_size is not None:
        check(
            top_k <= vocab_size,
            "signal.top_k",
            top_k,
            f"must not exceed the vocabulary, data.vocab_size={vocab_size}; "
            f"use signal.top_k={vocab_size} or less",
        )
    if run.is_stored:
        run.store.check_serves(run.signal, run.temperature)
        run.store.check_text(run.text)
        architecture = getattr(run.teacher, "architecture", None)
        if architecture and (shape := getattr(architecture(run), "shape", None)):
            run.store.check_layers(shape(1).num_layers)


def check_text(run: "Run") -> None:
    """Whether the text can be made at all."""
    name = value_name(run.text)
    needed = [("teacher", run.text.needs_teacher)]
    needed.append(("teacher@weak_teacher", run.text.needs_weak_teacher))
    for key, is_needed in needed:
        if is_needed and not getattr(run, key.rpartition("@")[2]).exists:
            raise ConfigError(
                f"{key}=none: text={name} is made by it; use {key}=trained or "
                f"{key}=pretrained, or text=corpus."
            )
    run.text.check(run)


def _check_temperature(run: "Run") -> None:
    """Whether the signal can be read at the temperature at all."""
    drawn, heat = bool(getattr(run.signal, "num_draws", 0)), run.temperature
    name = type(heat).__name__
    if drawn and heat.constant != 1.0:
        raise ConfigError(
            f"temperature: {name} tempers the teacher, and a signal of draws has counts of the "
            "distribution at temperature 1; use temperature=constant with "
            "temperature.value=1.0, or signal=topk."
        )
    one_sided = heat.constant != 1.0 and not heat.tempers_student
    if one_sided and getattr(run.signal, "tail", None) == "decoupled":
        raise ConfigError(
            f"signal.tail=decoupled: tempers both sides of what is kept, and {name} the "
            "teacher alone; set temperature.temper_student=true, or use signal.tail=bucket."
        )


def _check_domains(run: "Run") -> None:
    """Whether there are such domains, as far as that is known before the text is read."""
    wanted, corpus = run.routing.domains, value_name(run.data)
    if not wanted:
        return
    if run.data.domains is None:
        raise ConfigError(
            f"data.domains=null: routing.domains={[*wanted]} are told apart by nothing; set "
            f"data.domains (what data={corpus} knows is in `pdx axes data` and its docstring), or "
            "use another routing."
        )
    if names := getattr(run.data, "domain_names", ()):
        refuse_unknown(wanted, names)


def check_ranks(run: "Run", num_ranks: int, sharding: str) -> None:
    """Refuse processes that cannot share a step's batch evenly, or what they cannot do."""
    if num_ranks > 1 and sharding == "fsdp" and run.hidden.exists:
        raise ConfigError(
            "env.sharding=fsdp: projections of hidden states are whole on every process; use "
            "env.sharding=replicate, or hidden=none."
        )
    if num_ranks > 1 and run.is_recorded:
        raise ConfigError(
            f"env.gpus_per_run={num_ranks}: a teacher is recorded in one process; use "
            "env.gpus_per_run=1, or store.recorded=[]."
        )
    sizes = {"train.batch_size": run.train.batch_size}
    for teacher in (run.teacher, run.evaluation_teacher):
        if hasattr(teacher, "batch_size"):  # it is trained here, by as many processes
            sizes["teacher.batch_size"] = teacher.batch_size
    for key, size in sizes.items():
        if size % num_ranks:
            allowed = ", ".join(str(n) for n in range(1, size + 1) if size % n == 0)
            raise ConfigError(
                f"env.gpus_per_run={num_ranks}: does not divide {key}={size}, and each process "
                f"takes an equal part of every batch; use one of {allowed}, or another {key}."
            )
