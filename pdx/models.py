"""Students and teachers from transformers: hidden states, and a head that makes logits of them."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pdx.build import check
from pdx.cost import Shape
from pdx.errors import ConfigError


@dataclass(frozen=True)
class Head:
    """Hidden states -> logits: a matrix, its bias, and the soft cap that some families apply.

    Attributes:
        weight_VD: the output embedding; fewer rows than the model's where padding was cut off.
        softcap: logits become softcap * tanh(logits / softcap).
        scale: logits are multiplied by it.
    """

    weight_VD: Tensor
    bias_V: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0

    @property
    def vocab_size(self) -> int:
        return self.weight_VD.shape[0]

    def __call__(self, hidden_CD: Tensor) -> Tensor:
        logits_CV = nn.functional.linear(hidden_CD, self.weight_VD, self.bias_V)
        if self.scale != 1.0:
            logits_CV = logits_CV * self.scale
        if self.softcap is not None:
            logits_CV = self.softcap * torch.tanh(logits_CV / self.softcap)
        return logits_CV


def whole(tensor: Tensor) -> Tensor:
    """A tensor gathered from the ranks that hold its shards; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore


def head_of(model: Any, vocab_size: int | None = None) -> Head:
    """The head of any causal language model of transformers, cut to ``vocab_size`` rows."""
    output = model.get_output_embeddings()
    if output is None:
        raise ConfigError(
            f"teacher.path: {type(model).__name__} has no output embedding; use a causal language "
            "model (AutoModelForCausalLM)."
        )
    weight, bias = whole(output.weight), getattr(output, "bias", None)
    bias = None if bias is None else whole(bias)
    if vocab_size is not None and vocab_size < len(weight):
        weight, bias = weight[:vocab_size], None if bias is None else bias[:vocab_size]
    config = model.config
    scale = getattr(config, "logit_scale", None)  # Cohere multiplies, Granite divides
    if scale is None:
        scale = 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
    return Head(
        weight_VD=weight,
        bias_V=bias,
        softcap=getattr(config, "final_logit_softcapping", None),
        scale=float(scale),
    )


def quiet_transformers() -> None:
    """No progress bars of its own: ours say what is going on."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def hidden_states(model: Any, tokens_BL: Tensor, document_BL: Tensor | None = None) -> Tensor:
    """Final hidden states [B, L, D], after the last norm.

    Where ``document_BL`` numbers the documents of each window, attention stays within them and
    positions start anew in each.
    """
    return _body(model, tokens_BL, document_BL).last_hidden_state


def layer_states(
    model: Any, tokens_BL: Tensor, document_BL: Tensor | None, layers: list[int]
) -> tuple[Tensor, list[Tensor]]:
    """Final hidden states, and those of some layers: 0 the embedding, -1 the final ones again."""
    asked = {"output_hidden_states": True} if layers else {}
    output = _body(model, tokens_BL, document_BL, **asked)
    return output.last_hidden_state, [output.hidden_states[layer] for layer in layers]


def check_layers(key: str, layers: list[int], num_layers: int) -> None:
    """Refuse a layer that a model has not, counted as ``layer_states`` does.

    Raises:
        ConfigError: the layer, and which there are.
    """
    for layer in layers:
        check(
            -num_layers - 1 <= layer <= num_layers,
            key,
            layer,
            f"must be from 0 (the embedding) to {num_layers}, or from the end down to "
            f"{-num_layers - 1}",
        )


def _body(model: Any, tokens_BL: Tensor, document_BL: Tensor | None, **asked: bool) -> Any:
    """The model without its head."""
    if document_BL is None:
        return model.base_model(input_ids=tokens_BL, use_cache=False, **asked)
    length = tokens_BL.shape[1]
    same_BLL = document_BL[:, :, None] == document_BL[:, None, :]
    causal_LL = torch.ones(length, length, dtype=torch.bool, device=tokens_BL.device).tril()
    allowed_BLL = same_BLL & causal_LL
    position_BL = allowed_BLL.sum(-1) - 1
    return model.base_model(
        input_ids=tokens_BL,
        attention_mask=allowed_BLL[:, None],
        position_ids=position_BL,
        use_cache=False,
        **asked,
    )


@dataclass(frozen=True, kw_only=True)
class Llama:
    """A Llama-style decoder with fresh weights: RMSNorm, rotary positions, gated feed-forward.

    Values are named by non-embedding parameters, which do not depend on the vocabulary.

    Attributes:
        num_kv_heads: key/value heads; fewer than ``num_heads`` is grouped-query attention.
        init_std: standard deviation of all matrices at the start.

    Source:
        Touvron et al. 2023, arXiv:2302.13971, as implemented by transformers.
    """

    hidden_size: int
    ffn_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    tie_embeddings: bool
    rope_theta: float
    init_std: float

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        for key in ("hidden_size", "ffn_size", "num_layers", "num_heads", "num_kv_heads"):
            check(getattr(self, key) >= 1, f"student.{key}", getattr(self, key), "must be >= 1")
        check(
            self.hidden_size % (2 * self.num_heads) == 0,
            "student.hidden_size",
            self.hidden_size,
            f"must be an even multiple of student.num_heads={self.num_heads}",
        )
        check(
            self.num_heads % self.num_kv_heads == 0,
            "student.num_kv_heads",
            self.num_kv_heads,
            f"must divide student.num_heads={self.num_heads}",
        )

    def shape(self, vocab_size: int) -> Shape:
        """What its cost depends on."""
        return Shape(
            hidden_size=self.hidden_size,
            ffn_size=self.ffn_size,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            tie_embeddings=self.tie_embeddings,
            vocab_size=vocab_size,
        )

    def init(self, vocab_size: int, seq_len: int, seed: int) -> Any:
        """A model with weights drawn from ``seed`` on the CPU: the same on every device."""
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.ffn_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            tie_word_embeddings=self.tie_embeddings,
            max_position_embeddings=seq_len,
            initializer_range=self.init_std,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            bos_token_id=None,
            eos_token_id=None,
            attn_implementation="sdpa",  # type: ignore[call-arg]  transformers takes it by **kwargs
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LlamaForCausalLM(config)
