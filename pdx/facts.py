"""What a run will cost and rests on: the same figures before it and after it."""

import json
from pathlib import Path
from typing import Any

from pdx.config import Run
from pdx.cost import Shape
from pdx.data import TokenSet
from pdx.data.tokens import find
from pdx.env import Env
from pdx.store.states import bytes_per_position
from pdx.teacher import Pretrained, TrainedHere


def shape_of(component: Any, vocab_size: int) -> Shape | None:
    """What the cost of a model depends on; None for one that does not say."""
    if isinstance(component, Pretrained):
        directory = component.directory or Path(component.path)
        return _saved_shape(directory / "config.json", vocab_size)
    shape = getattr(component, "shape", None)
    return shape(vocab_size) if shape else None


def _saved_shape(path: Path, vocab_size: int) -> Shape | None:
    """The shape of a saved model with the fields of the Llama family; None for other families."""
    if not path.is_file():
        return None
    saved = json.loads(path.read_text())
    try:
        return Shape(
            hidden_size=saved["hidden_size"],
            ffn_size=saved["intermediate_size"],
            num_layers=saved["num_hidden_layers"],
            num_heads=saved["num_attention_heads"],
            num_kv_heads=saved.get("num_key_value_heads") or saved["num_attention_heads"],
            tie_embeddings=bool(saved.get("tie_word_embeddings", False)),
            vocab_size=saved.get("vocab_size", vocab_size),
        )
    except KeyError:
        return None


def facts_of(run: Run, env: Env, token_set: TokenSet | None = None) -> dict[str, Any]:
    """Parameters, tokens, FLOPs and bytes of a run; null where it cannot be known yet.

    A stored teacher reads each distinct token once, however often the student does; a live one
    reads every token that the student reads. Conventions of FLOPs: ``pdx.cost``.
    """
    token_set = token_set or find(run.data, env.paths)
    vocab_size = token_set.vocab_size if token_set else run.data.vocab_size
    seq_len, num_tokens = run.data.seq_len, run.num_steps * run.batch_tokens
    facts: dict[str, Any] = {
        "num_tokens": num_tokens,
        "num_unique_tokens": num_tokens,
        "num_epochs": None,
        "num_steps": run.num_steps,
        "seq_len": seq_len,
        "vocab_size": vocab_size,
        "data_digest": token_set.digest if token_set else None,
        "teacher_id": None,
        "store_bytes": 0,
        "flops_teacher_inference_exact": 0.0,
        "flops_teacher_training_exact": 0.0,
    }
    if token_set:
        windows = run.text.windows(run, env, token_set)
        facts["num_unique_tokens"] = run.num_unique_windows(windows) * seq_len
        facts["num_epochs"] = run.num_epochs(windows)
    student = shape_of(run.student, vocab_size) if vocab_size else None
    facts["num_params_total"] = student.num_params_total if student else None
    facts["num_params_non_embedding"] = student.num_params_non_embedding if student else None
    facts["flops_train_exact"] = student.flops_train_exact(num_tokens, seq_len) if student else None
    if student and run.hidden.exists:
        teacher, _, _ = _cost(run, run.teacher, vocab_size)
        width = teacher.hidden_size if teacher else student.hidden_size
        match = run.hidden.flops_forward_per_token(student.hidden_size, width)
        facts["flops_train_exact"] += 3 * match * num_tokens
    facts["flops_train_6nd"] = student.flops_train_6nd(num_tokens) if student else None
    if run.reads_teacher and vocab_size:
        facts |= _teacher_facts(run, vocab_size, num_tokens, facts["num_unique_tokens"])
    return facts


def _teacher_facts(run: Run, vocab_size: int, num_tokens: int, num_unique: int) -> dict[str, Any]:
    shape, forward, training = _cost(run, run.teacher, vocab_size)
    read = made = run.text.forward_tokens(run, num_unique)
    if run.loss.needs_teacher:
        live = 0 if run.is_recorded else num_unique
        read += live if run.is_stored else num_tokens
    inference = None if forward is None else forward * read
    if run.text.needs_weak_teacher:
        _, forward, weak_training = _cost(run, run.weak_teacher, vocab_size)
        inference = _sum(inference, None if forward is None else forward * made)
        training = _sum(training, weak_training)
    stored: int | None = 0
    if run.is_stored:
        stored = round(num_unique * run.store.bytes_per_token(vocab_size))
        if run.store.hidden_layers:
            one = bytes_per_position(shape.hidden_size) if shape else None
            stored = one and stored + num_unique * len(run.store.hidden_layers) * one
    return {
        "teacher_id": run.teacher_id(run.teacher),
        "teacher_num_params_non_embedding": shape.num_params_non_embedding if shape else None,
        "flops_teacher_inference_exact": inference,
        "flops_teacher_training_exact": training,
        "store_bytes": stored,
    }


def _cost(run: Run, teacher: Any, vocab: int) -> tuple[Shape | None, float | None, float | None]:
    """A teacher's shape, FLOPs of one token forward, and of its training; None: not known here."""
    here = isinstance(teacher, TrainedHere)
    shape = shape_of(teacher.architecture(run) if here else teacher, vocab)
    if shape is None:
        return None, None, None
    training = None
    if here:
        training = shape.flops_train_exact(teacher.num_tokens, run.data.seq_len)
    return shape, shape.flops_forward_per_token(run.data.seq_len), training


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
