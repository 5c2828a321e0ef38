"""What the truncating signals share."""

from typing import ClassVar

import torch
from torch import Tensor

from pdx.build import check
from pdx.rows import LEAST_TAIL, NOTHING, Rows, exp, logsumexp
from pdx.signal import Context, Heats, Temperature
from pdx.sparse import SparseSignal
from pdx.student import column

# What becomes of the mass outside the kept tokens; pdx.signals.topk says what each does.
TAILS = ("renormalize", "bucket", "to_label", "smooth", "drop", "support", "decoupled")
CLOSED = ("bucket", "smooth", "support", "decoupled")  # both sides sum to one on the support
FAITHFUL = ("bucket", "support", "decoupled")  # and agree where student and teacher do
AT_ONE = ("decoupled",)  # reads the rest mass at temperature 1, whatever the temperature
NO_REST = ("renormalize", "support")  # reads no rest mass at all


class Truncated:
    """What the truncating signals share: how kept rows become a signal, stored or live."""

    is_full: ClassVar[bool] = False
    stored: ClassVar[bool] = True
    rows: ClassVar[str] = "topk"  # the kind of rows it reads
    num_draws: ClassVar[int] = 0
    fixed_width: ClassVar[bool] = True  # rows of top_k entries, however many of them are kept

    tail: str

    def __post_init__(self) -> None:
        check(self.tail in TAILS, "signal.tail", self.tail, f"must be one of {', '.join(TAILS)}")

    @property
    def closed(self) -> bool:
        """Both sides sum to one on the support."""
        return self.tail in CLOSED

    @property
    def faithful(self) -> bool:
        """Closed, and a student that agrees with the teacher is one that agrees on the support."""
        return self.tail in FAITHFUL

    def needed_temperatures(self, temperature: Temperature) -> tuple[float | None, ...]:
        """At which it reads the full-vocabulary logsumexp; None: at each position's own."""
        if self.tail in NO_REST:
            return temperature.needed_temperatures
        own = 1.0 if self.tail in AT_ONE else temperature.constant
        return (own, *temperature.needed_temperatures)

    def most_kept(self, vocab_size: int) -> int:
        """Entries of a row that may be kept."""
        raise NotImplementedError

    def keep(self, rows: Rows) -> Tensor:
        """Which entries of each row are kept, [N, K] bool."""
        raise NotImplementedError

    def sparse(self, rows: Rows, context: Context) -> SparseSignal:
        """The signal of rows that hold all that it may keep, as a store has them."""
        heats = context.temperature(context.fraction, rows.facts)
        heat, rest_N = self._heat_of_rest(heats), None
        if self.tail not in NO_REST:
            assert isinstance(heat, float), "the store refuses the others"
            lse_N = rows.facts.lse[heat]
            share_NK = exp(_known(rows.logits_NK) / heat - lse_N[:, None])
            left_N = torch.log1p(-share_NK.sum(-1).clamp(max=1.0)).clamp(min=LEAST_TAIL)
            rest_N = lse_N + left_N
        return self._signal(rows, heats, rest_N, context)

    def of_logits(self, logits_CV: Tensor, context: Context) -> SparseSignal:
        """The signal of a live teacher: its tail is exact, however little it holds."""
        logits_CV, temperature = logits_CV.float(), context.temperature
        lse_at = tuple({1.0, *temperature.needed_temperatures})
        top_k = self.most_kept(logits_CV.shape[-1])
        rows = Rows.of(logits_CV, top_k, lse_at, temperature.needs_spread)
        heats = temperature(context.fraction, rows.facts)
        rest_C = None
        if self.tail not in NO_REST:
            others_CV = logits_CV.scatter(-1, rows.ids_NK, -torch.inf)
            rest_C = (others_CV / column(self._heat_of_rest(heats))).logsumexp(-1)
        return self._signal(rows, heats, rest_C, context)

    def _heat_of_rest(self, heats: Heats) -> float | Tensor:
        return 1.0 if self.tail in AT_ONE else heats.teacher

    def _signal(
        self, rows: Rows, heats: Heats, rest_N: Tensor | None, context: Context
    ) -> SparseSignal:
        """Of rows and what lies outside of them; entries that are not kept join that."""
        entry_NK = rows.logits_NK > NOTHING
        keep_NK = self.keep(rows) & entry_NK
        width = min(self.most_kept(keep_NK.shape[-1]), keep_NK.shape[-1])
        if width == keep_NK.shape[-1] and not self.fixed_width:
            width = int(keep_NK.sum(-1).max())
        if rest_N is not None:
            logits_NK = rows.logits_NK / column(self._heat_of_rest(heats))
            unkept_NK = torch.where(entry_NK & ~keep_NK, logits_NK, -torch.inf)
            rest_N = logsumexp(torch.cat([unkept_NK, rest_N[:, None]], -1))
        return SparseSignal(
            ids_NK=rows.ids_NK[:, :width].contiguous(),
            logits_NK=rows.logits_NK[:, :width].contiguous(),
            keep_NK=keep_NK[:, :width].contiguous(),
            rest_N=rest_N,
            targets_N=context.targets_N,
            tail=self.tail,
            heats=heats,
        )


def _known(logits_NK: Tensor) -> Tensor:
    """Logits, with those of places that hold no entry at minus infinity."""
    return logits_NK.masked_fill(logits_NK <= NOTHING, -torch.inf)


def largest_holding(rows: Rows, top_p: float) -> Tensor:
    """The smallest set of a row's largest tokens that holds ``top_p`` of the mass, [N, K] bool."""
    probs_NK = (rows.logits_NK - rows.facts.lse[1.0][:, None]).exp()
    before_NK = probs_NK.cumsum(-1) - probs_NK  # mass of all larger tokens
    keep_NK = before_NK < top_p
    keep_NK[:, 0] = True
    return keep_NK
