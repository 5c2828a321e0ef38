"""Proof that a store is what it says: every digest, and a sample against the teacher itself."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pdx.data import Windows
from pdx.errors import StoreError
from pdx.frozen import FrozenTeacher
from pdx.rows import NOTHING
from pdx.store.codecs.row import dense
from pdx.store.columns import reduce
from pdx.store.reader import Store

COMPARED_WINDOWS = 16
# A row counts as other where its words differ by more than this, in nats; steps of logits lose
# 1.2e-4 at most, and a teacher that is run twice moves by less. So do hidden states by more than
# this share of their length, of which rounding takes half a percent.
APART = 1e-2
STATES_APART = 5e-2


@dataclass(frozen=True)
class Verdict:
    """What was compared, in nats of KL(fresh row || other row) over the kept tokens.

    Attributes:
        stored, control: of the stored rows, and of a second fresh pass in batches of another size.
        apart, control_apart: share of positions that differ by more than ``APART``.
        states_apart, states_control: of hidden states, by more than ``STATES_APART``; 0 where none
            are kept.
    """

    num_windows: int
    num_compared: int
    stored: float
    control: float
    apart: float
    control_apart: float
    states_apart: float
    states_control: float

    def __str__(self) -> str:
        return (
            f"{self.num_windows} windows: every checksum and every token digest holds\n"
            f"{self.num_compared} windows against a fresh teacher pass: KL {self.stored:.2e} nats "
            f"per token, {self.apart:.2%} of positions more than {APART} apart\n"
            f"control, the teacher against itself in other batches: KL {self.control:.2e}, "
            f"{self.control_apart:.2%}\n"
            f"hidden states, if any are kept: {self.states_apart:.2%} of positions more than "
            f"{STATES_APART:.0%} apart; control {self.states_control:.2%}"
        )


def verify(store: Store, windows: Windows, teacher: FrozenTeacher, num_windows: int) -> Verdict:
    """Read everything, and compare a spread sample of windows with the live teacher.

    Raises:
        StoreError: the first thing that is not as it was captured.
    """
    index = np.arange(min(store.layout.num_windows, num_windows))
    for part in np.array_split(index, -(-len(index) // 64)):
        store.check(part, windows.ids(part))
    sample = np.unique(np.linspace(0, len(index) - 1, COMPARED_WINDOWS).astype(np.int64))
    stored = _words(store, windows, sample)
    fresh = _fresh(store, windows, teacher, sample, len(sample))
    again = _fresh(store, windows, teacher, sample, 1)
    kl_N, control_N = _kl(fresh, stored), _kl(fresh, again)
    verdict = Verdict(
        len(index),
        len(sample),
        float(kl_N.mean()),
        float(control_N.mean()),
        float((kl_N > APART).mean()),
        float((control_N > APART).mean()),
        *_states(store, windows, teacher, sample),
    )
    if verdict.apart > 0.01 + 2 * verdict.control_apart:
        worst = sample[kl_N.reshape(len(sample), -1).mean(1).argmax()]
        raise StoreError(
            f"{store.directory}: its rows are not this teacher's: {verdict.apart:.1%} of positions "
            f"are more than {APART} nats apart (the teacher against itself: "
            f"{verdict.control_apart:.1%}), most in window {worst}; capture again."
        )
    if verdict.states_apart > 0.01 + 2 * verdict.states_control:
        raise StoreError(
            f"{store.directory}: its hidden states are not this teacher's: "
            f"{verdict.states_apart:.1%} of positions are more than {STATES_APART:.0%} apart (the "
            f"teacher against itself: {verdict.states_control:.1%}); capture again."
        )
    return verdict


def _states(
    store: Store, windows: Windows, teacher: FrozenTeacher, index_B: np.ndarray
) -> tuple[float, float]:
    """Share of positions whose hidden states are apart from fresh ones, and the control's."""
    layers = list(store.layout.hidden_layers)
    if not layers:
        return 0.0, 0.0

    def fresh(index_B: np.ndarray) -> list[Tensor]:
        _, states = teacher.states(windows.batch(index_B).to(teacher.device), layers)
        return [states_BLD.float().cpu() for states_BLD in states]

    stored = [s.values() for s in store.states(index_B, windows.ids(index_B), layers)]
    alone = zip(*(fresh(window) for window in index_B[:, None]), strict=True)
    wanted, again = fresh(index_B), [torch.cat(parts) for parts in alone]
    return _share_apart(wanted, stored), _share_apart(wanted, again)


def _share_apart(wanted: list[Tensor], other: list[Tensor]) -> float:
    gaps = [(b - a).norm(dim=-1) / a.norm(dim=-1) for a, b in zip(wanted, other, strict=True)]
    return float((torch.stack(gaps) > STATES_APART).float().mean())


Words = list[dict[int, float]]  # of each position: token -> share of what is kept


def _words(store: Store, windows: Windows, index_B: np.ndarray) -> Words:
    """What the store says."""
    rows = store.rows(index_B, windows.ids(index_B), store.codec.num_draws)
    return _shares(rows.ids_NK.numpy(), rows.logits_NK.numpy())


def _fresh(
    store: Store, windows: Windows, teacher: FrozenTeacher, index_B: np.ndarray, size: int
) -> Words:
    """What the teacher says now, through the codec, so that draws are the same draws."""
    words: Words = []
    length = store.layout.seq_len
    for part in np.array_split(index_B, -(-len(index_B) // size)):
        columns, copied = reduce(store, windows, teacher, part)
        if copied is not None:
            copied.synchronize()
        for b, window in enumerate(part):
            own = {k: v.numpy()[b * length : (b + 1) * length] for k, v in columns.items()}
            planes = [memoryview(p) for p in store.codec.encode(own)]
            offset_B = np.array([window * length])
            entries = store.codec.decode([planes], length, offset_B, store.codec.num_draws)
            words += _shares(*dense(entries, length, NOTHING))
    return words


def _shares(ids_NK: np.ndarray, weights_NK: np.ndarray) -> Words:
    kept_NK = weights_NK > NOTHING / 2
    shares_NK = (
        torch.from_numpy(np.where(kept_NK, weights_NK, -np.inf)).double().softmax(-1).numpy()
    )
    return [
        dict(zip(ids[kept].tolist(), shares[kept].tolist(), strict=True))
        for ids, shares, kept in zip(ids_NK, shares_NK, kept_NK, strict=True)
    ]


def _kl(true: Words, other: Words) -> np.ndarray:
    """KL at each position; a token that the other lacks counts as of mass 1e-6."""
    return np.array(
        [
            sum(p * np.log(p / q.get(token, 1e-6)) for token, p in t.items() if p > 0)
            for t, q in zip(true, other, strict=True)
        ]
    )
