"""Windows of another set, chosen and in an order of their own."""

from collections.abc import Callable

import numpy as np

from pdx.data.tokens import Windows


class Chosen(Windows):
    """Some windows of ``base``, numbered anew from 0; one may stand there twice.

    Args:
        of: new numbers -> numbers in ``base``, int64 [B] each.
        name: digest of what decides the choice.
    """

    def __init__(
        self, base: Windows, num_windows: int, of: Callable[[np.ndarray], np.ndarray], name: str
    ) -> None:
        self._chosen_from, self.of = base, of
        self.splits, self.seq_len, self.document_mask = (
            base.splits,
            base.seq_len,
            base.document_mask,
        )
        self.num_windows = num_windows
        self.num_tokens = self.num_unique_tokens = num_windows * base.seq_len
        self.num_bytes = 0  # of text that is trained on: nothing asks
        self.digest = name

    @property
    def base(self) -> Windows:
        return self._chosen_from

    def _base(self, index_B: np.ndarray) -> np.ndarray:
        return self.of(self._numbers(index_B))

    def ids(self, index_B: np.ndarray) -> np.ndarray:
        return self._chosen_from.ids(self._base(index_B))

    def window_bytes(self, index_B: np.ndarray) -> np.ndarray:
        return self._chosen_from.window_bytes(self._base(index_B))

    def domains(self, index_B: np.ndarray) -> np.ndarray:
        return self._chosen_from.domains(self._base(index_B))

    def _documents(self, index_B: np.ndarray) -> np.ndarray:
        return self._chosen_from._documents(self._base(index_B))
