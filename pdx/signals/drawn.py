"""What the signals that draw share."""

from typing import ClassVar

from torch import Tensor

from pdx.rows import NOTHING, Rows
from pdx.signal import Context, Heats
from pdx.sparse import SparseSignal


class Drawn:
    """Drawn tokens weigh what makes them unbiased; both sides are at temperature 1."""

    is_full: ClassVar[bool] = False
    lacks: ClassVar[dict[str, str]] = {
        "tail": "draws speak for the whole vocabulary, so there is no tail; use signal=topk or "
        "another truncation, or leave it out",
        "top_p": "draws know the mass of no other token; use signal=topp or signal=topp_topk with "
        "store=topk",
    }
    stored: ClassVar[bool] = True

    @property
    def closed(self) -> bool:
        """The student's mass on the drawn tokens does not sum to one."""
        return False

    @property
    def faithful(self) -> bool:
        """Only on average."""
        return False

    @property
    def weighting(self) -> str:
        """How rows of log-weights are read: as the tail that does so."""
        return "renormalize"

    def rows_of(self, logits_CV: Tensor, offset_C: Tensor) -> Rows:
        """Rows of full logits at the positions ``offset_C`` of the split."""
        raise NotImplementedError

    def of_logits(self, logits_CV: Tensor, context: Context) -> SparseSignal:
        """The signal of a live teacher."""
        return self.sparse(self.rows_of(logits_CV.float(), context.offset_N), context)

    def sparse(self, rows: Rows, context: Context) -> SparseSignal:
        """The signal of rows that hold log-weights."""
        return SparseSignal(
            ids_NK=rows.ids_NK,
            logits_NK=rows.logits_NK,
            keep_NK=rows.logits_NK > NOTHING / 2,
            rest_N=None,
            targets_N=context.targets_N,
            tail=self.weighting,
            heats=Heats(1.0, 1.0, 1.0),
        )
