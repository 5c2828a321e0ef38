"""A loaded teacher: frozen, checked, and asked for hidden states only."""

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pdx.data import Batch, TokenSet
from pdx.data.tokenizer import tokenizer_digest
from pdx.errors import ConfigError, DataError
from pdx.models import Head, head_of, hidden_states, layer_states
from pdx.teacher import Pretrained

if TYPE_CHECKING:
    from pdx.feed import MicroBatch


@dataclass(frozen=True)
class FrozenTeacher:
    """A teacher in evaluation mode on one device.

    It runs in the precision of its weights whatever the student's: a store, which no student's
    autocast reaches, and a live teacher say the same.
    """

    model: Any
    head: Head
    device: torch.device

    @torch.no_grad()
    def hidden(self, batch: "Batch | MicroBatch") -> Tensor:
        """Final hidden states of a batch, laid flat: [B * L, D]."""
        return self.states(batch, [])[0]

    @torch.no_grad()
    def states(self, batch: "Batch | MicroBatch", layers: list[int]) -> tuple[Tensor, list[Tensor]]:
        """Final hidden states as ``hidden`` has them, and those of some layers, [B, L, D] each."""
        with torch.autocast(self.device.type, enabled=False):
            hidden_BLD, states = layer_states(
                self.model, batch.tokens_BL, batch.document_BL, layers
            )
        return hidden_BLD.reshape(-1, hidden_BLD.shape[-1]), states

    def logits(self, hidden_CD: Tensor) -> Tensor:
        """Logits [C, V] of final hidden states."""
        with torch.autocast(self.device.type, enabled=False):
            return self.head(hidden_CD)


def load_model(directory: Path | str, dtype: str, **options: Any) -> Any:
    """A causal language model of transformers: safetensors only, no remote code."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, trust_remote_code=False, use_safetensors=True, **options
    )


def freeze(model: Any, token_set: TokenSet, device: torch.device, padding: str) -> FrozenTeacher:
    """Check the vocabulary, and that hidden states and head really make this model's logits.

    Raises:
        ConfigError: vocabularies that do not match.
    """
    model = model.to(device).eval().requires_grad_(False)
    rows = model.get_output_embeddings().weight.shape[0]
    vocab_size = token_set.vocab_size
    if rows < vocab_size:
        raise ConfigError(
            f"teacher.path: its head has {rows} rows and the tokenizer has {vocab_size} tokens; "
            "use the teacher's own tokenizer (data.tokenizer=PATH)."
        )
    if rows > vocab_size and padding != "mask":
        raise ConfigError(
            f"teacher.padding={padding}: its head has {rows} rows and the tokenizer has "
            f"{vocab_size} tokens; if the {rows - vocab_size} surplus rows are padding, set "
            "teacher.padding=mask to put them at minus infinity."
        )
    teacher = FrozenTeacher(model, head_of(model, vocab_size), device)
    _check_head(teacher)
    if token_set.manifest["document_mask"]:
        _check_document_mask(teacher, token_set.seq_len)
    return teacher


def load_pretrained(
    component: Pretrained, token_set: TokenSet, device: torch.device
) -> FrozenTeacher:
    """Load a pretrained teacher and compare its tokenizer with the data's.

    Raises:
        ConfigError: another tokenizer, or a vocabulary that does not fit.
    """
    from transformers import AutoTokenizer

    directory = component.directory
    where = directory or component.path
    options = {} if directory else {"revision": component.revision}
    try:
        model = load_model(where, component.dtype, **options)
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)
    except (OSError, ValueError) as err:
        raise ConfigError(
            f"teacher.path={component.path}: cannot be loaded ({str(err).splitlines()[0]}); name a "
            "directory that save_pretrained wrote (model and tokenizer), or a hub id."
        ) from err
    theirs, ours = tokenizer_digest(tokenizer), token_set.tokenizer_digest
    if theirs != ours:
        raise ConfigError(
            f"teacher.path={component.path}: its tokenizer {theirs} is not the data's {ours}; set "
            f"data.tokenizer={component.path} (and data.vocab_size=null)."
        )
    print(
        f"warning: teacher.path={component.path} was trained elsewhere and may have read the "
        "validation text; held-out losses may be too good.",
        file=sys.stderr,
    )
    return freeze(model, token_set, device, component.padding)


@torch.no_grad()
def _check_head(teacher: FrozenTeacher) -> None:
    """Some families scale, cap or bias logits in ways of their own: compare before trusting."""
    tokens_BL = torch.arange(8, device=teacher.device)[None] % teacher.head.vocab_size
    ours = teacher.head(hidden_states(teacher.model, tokens_BL)[0]).float()
    theirs = teacher.model(input_ids=tokens_BL).logits[0, :, : teacher.head.vocab_size].float()
    tolerance = 1e-3 if next(teacher.model.parameters()).dtype == torch.float32 else 0.1
    if not torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance):
        raise DataError(
            f"teacher: {type(teacher.model).__name__} forms logits otherwise than head(hidden "
            "states); pdx does not know this family's head (pdx/models.py, head_of)."
        )


@torch.no_grad()
def _check_document_mask(teacher: FrozenTeacher, seq_len: int) -> None:
    """Some kinds of attention misread a mask (eager adds it, windows are lost): compare."""
    tokens_BL = torch.arange(seq_len, device=teacher.device)[None] % teacher.head.vocab_size
    plain = hidden_states(teacher.model, tokens_BL).float()
    masked = hidden_states(teacher.model, tokens_BL, torch.zeros_like(tokens_BL)).float()
    tolerance = 1e-3 if next(teacher.model.parameters()).dtype == torch.float32 else 0.1
    if not float((plain - masked).norm()) <= tolerance * float(plain.norm()):
        raise ConfigError(
            f"data.document_mask=True: the teacher's attention ({type(teacher.model).__name__}, "
            f"{teacher.model.config._attn_implementation}) does not keep to a mask; use "
            "data.document_mask=false or another teacher."
        )


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """Products in the precision that a run asks for."""
    low = precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16) if low else nullcontext()
