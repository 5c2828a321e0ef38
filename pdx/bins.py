"""What is measured at positions, added up bin by bin."""

import torch
from torch import Tensor


class Bins:
    """How many positions fell into each bin, and the sums of values there, in float64.

    Attributes:
        sums: counts in the first row, a row a value below; ranks add theirs.
    """

    def __init__(self, num_bins: int, num_values: int, device: torch.device) -> None:
        self.sums = torch.zeros(1 + num_values, num_bins, dtype=torch.float64, device=device)

    @property
    def counts(self) -> list[float]:
        """Positions in each bin."""
        return self.sums[0].tolist()

    def add(self, bin_C: Tensor, *values_C: Tensor) -> None:
        """Positions by the number of their bin, with their values."""
        for row, value_C in enumerate([torch.ones_like(bin_C), *values_C]):
            self.sums[row].index_add_(0, bin_C, value_C.double())

    def means(self, value: int) -> list[tuple[int, float]]:
        """Number, from 1, and mean of a value, the first is 1, of each bin that is not empty."""
        pairs = zip(self.counts, self.sums[value].tolist(), strict=True)
        return [(i, total / count) for i, (count, total) in enumerate(pairs, 1) if count]


class Reliability:
    """How often a model's likeliest token is right, by how sure of it the model is.

    Bins of equal width over the confidence; the first value is its mean there, the second the
    share that is right.

    Source:
        Guo et al. 2017, arXiv:1706.04599, section 2.
    """

    def __init__(self, num_bins: int, device: torch.device) -> None:
        self.num_bins, self.bins = num_bins, Bins(num_bins, 2, device)

    def add(self, confidence_C: Tensor, right_C: Tensor) -> None:
        """Positions that count: probability of the likeliest token, and whether it is the next."""
        bin_C = (confidence_C * self.num_bins).long().clamp(max=self.num_bins - 1)
        self.bins.add(bin_C, confidence_C, right_C)

    def error(self) -> float:
        """The expected calibration error."""
        num, confidence, right = self.bins.sums
        return float((confidence - right).abs().sum()) / float(num.sum())
