"""Corpora to token shards to batches."""

from pdx.data.tokens import Batch, TokenSet, Windows, prepare, window_order

__all__ = ["Batch", "TokenSet", "Windows", "prepare", "window_order"]
