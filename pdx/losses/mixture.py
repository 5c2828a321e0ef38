"""The mixture of two distributions, from their log-probabilities."""

import math

import torch
from torch import Tensor


def log_mixture(a_CS: Tensor, b_CS: Tensor, weight: float) -> Tensor:
    """log(weight * exp(a) + (1 - weight) * exp(b)), for a weight strictly between 0 and 1."""
    return torch.logaddexp(a_CS + math.log(weight), b_CS + math.log1p(-weight))
