"""Parameters, FLOPs, bytes: what a run will cost, known before anything heavy is imported.

FLOPs are those of matrix products, a multiply and an add counted as two, attention over the full
L x L square (as kernels without a causal shortcut compute it, and as torch counts it); a backward
pass is twice the forward. ``flops_*_6nd`` is the usual 6 * N * D with N without embeddings.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the cost of a Llama-style decoder depends on.

    Attributes:
        num_heads, num_kv_heads: query heads, and key/value heads (grouped-query attention).
        ffn_size: inner width of the gated feed-forward layer (three matrices).
    """

    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    tie_embeddings: bool
    vocab_size: int

    @property
    def _matrices_per_layer(self) -> int:
        kv_size = self.hidden_size // self.num_heads * self.num_kv_heads
        attention = 2 * self.hidden_size**2 + 2 * self.hidden_size * kv_size
        return attention + 3 * self.hidden_size * self.ffn_size

    @property
    def num_params_non_embedding(self) -> int:
        """Layers and norms: no embedding, no head."""
        norms = (2 * self.num_layers + 1) * self.hidden_size
        return self.num_layers * self._matrices_per_layer + norms

    @property
    def num_params_total(self) -> int:
        """Everything, tied embeddings counted once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return self.num_params_non_embedding + embeddings

    def flops_forward_per_token(self, seq_len: int) -> float:
        """Matrix products of one forward pass, per token."""
        attention = 4 * seq_len * self.hidden_size * self.num_layers
        head = 2 * self.vocab_size * self.hidden_size
        return 2 * self.num_layers * self._matrices_per_layer + attention + head

    def flops_train_exact(self, num_tokens: int, seq_len: int) -> float:
        """Forward and backward over ``num_tokens``."""
        return 3 * self.flops_forward_per_token(seq_len) * num_tokens

    def flops_train_6nd(self, num_tokens: int) -> float:
        """6 * N * D, N without embeddings."""
        return 6.0 * self.num_params_non_embedding * num_tokens


def kept_bytes(num_tokens: float, entries_per_token: float, bytes_per_entry: float) -> float:
    """What stored logits take by entries alone, as the papers count them: no sums, no ids unless
    ``bytes_per_entry`` holds them. What pdx's own stores take is in ``pdx plan``.
    """
    return num_tokens * entries_per_token * bytes_per_entry


def steps_of(num_tokens: int, batch_tokens: int) -> int:
    """Whole optimizer steps in ``num_tokens``."""
    return num_tokens // batch_tokens
