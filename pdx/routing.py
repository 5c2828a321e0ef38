"""Which positions the teacher speaks at; at the others the loss is plain cross-entropy.

loss = sum over valid tokens of ((1 - w t) * ce + w t * kd) / number of valid tokens, t = 1 where
the teacher speaks and 0 where not. A position that it is kept from has its cross-entropy in full,
and the sum is divided by all valid tokens, not by those that are taught: what one position adds
never depends on how many others are taught, so micro-batches and ranks add up as ever.

A value's ``shift`` is 0 where the teacher speaks of the position that it speaks at.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pdx.build import check


@dataclass(frozen=True, kw_only=True)
class Everywhere:
    """The teacher speaks at every position that counts."""

    needs_entropy: ClassVar[bool] = False
    shift: ClassVar[int] = 0
    domains: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1

    def __call__(
        self, entropy_BL: Tensor | None, within_BL: Tensor | None, mask_BL: Tensor
    ) -> Tensor | None:
        """None: everywhere."""
        return None


@dataclass(frozen=True, kw_only=True)
class HighEntropy:
    """Not at the share of positions where the teacher is surest: these the text teaches as well.

    Attributes:
        skip_frac: share of each window's valid positions, rounded down, with the teacher's lowest
            entropy; of equal ones the first. 0.15 restores in-context copying in the source, 0.3 is
            too much there.

    Source:
        Goyal, Lopez-Paz, Ahuja 2026, arXiv:2509.01649 (token routing). Over what the share is taken
        is not said in what we have of it: each window is ours, which no batch size changes.
    """

    skip_frac: float

    needs_entropy: ClassVar[bool] = True
    shift: ClassVar[int] = 0
    domains: ClassVar[tuple[str, ...]] = ()
    definition_unresolved: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        allowed = "must lie strictly between 0 and 1; use routing=everywhere to skip none"
        check(0 < self.skip_frac < 1, "routing.skip_frac", self.skip_frac, allowed)

    def __call__(
        self, entropy_BL: Tensor | None, within_BL: Tensor | None, mask_BL: Tensor
    ) -> Tensor:
        """Where the teacher speaks, [B, L] bool, from its entropy in nats."""
        assert entropy_BL is not None
        ordered_BL = entropy_BL.masked_fill(~mask_BL, torch.inf).argsort(stable=True, dim=-1)
        rank_BL = ordered_BL.argsort(-1)
        # in whole numbers: 0.15 * 20 is 3
        num_skipped_B = (mask_BL.sum(-1) * self.skip_frac + 1e-6).floor()
        return mask_BL & (rank_BL >= num_skipped_B[:, None])


@dataclass(frozen=True, kw_only=True)
class ByDomain:
    """Only in some domains of the text, such as prose; in the others, such as code, the text alone.

    A position is of the domain of the token that is to be said there.

    Attributes:
        domains: where the teacher speaks, by their names in the corpus (``data.domains``).

    Source:
        Yuan, Li, Xu 2026, Let the Data Decide: language modelling for mathematics and code, the
        teacher for the rest, by data set. Domains of positions are ours, so that one window may
        hold several.
    """

    domains: list[str]

    needs_entropy: ClassVar[bool] = False
    shift: ClassVar[int] = 0
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        distinct = 0 < len({*self.domains}) == len(self.domains)
        allowed = "must name domains, each once; use routing=everywhere for all"
        check(distinct, "routing.domains", self.domains, allowed)

    def __call__(
        self, entropy_BL: Tensor | None, within_BL: Tensor | None, mask_BL: Tensor
    ) -> Tensor:
        """Where the teacher speaks, [B, L] bool, from what is of these domains."""
        assert within_BL is not None
        return mask_BL & within_BL


@dataclass(frozen=True, kw_only=True)
class Placebo:
    """The teacher's words at the wrong place: what a gain is worth that survives this.

    At each position the teacher speaks of the one ``shift`` before it in the same window, around
    its end: as sharp, as varied and as dear as its true words, and no help with the next token.
    Whatever the store checks, it checks before: only what was read for a window is moved within it.

    Attributes:
        shift: positions; 1 tells what followed the token before, which the student has read.

    Source:
        Ours.
    """

    shift: int

    needs_entropy: ClassVar[bool] = False
    domains: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self.shift != 0, "routing.shift", self.shift, "must not be 0; use routing=everywhere")

    def __call__(
        self, entropy_BL: Tensor | None, within_BL: Tensor | None, mask_BL: Tensor
    ) -> Tensor | None:
        """None: everywhere."""
        return None
