"""Tokenizers: trained here, or pretrained; and how many bytes each token stands for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pdx.errors import DataError
from pdx.files import digest
from pdx.remote import fetch, is_url

EOS = "<|endoftext|>"
SAVED = (".json", ".txt", ".model", ".jinja")  # what save_pretrained writes of a tokenizer


def train_bpe(texts: Iterator[str], vocab_size: int) -> Any:
    """A byte-level BPE as a transformers tokenizer; its only special token ends a document."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore
    trainer = trainers.BpeTrainer(  # pyright: ignore
        vocab_size=vocab_size,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise DataError(
            f"data.vocab_size={vocab_size}: the train text only gives "
            f"{tokenizer.get_vocab_size()} tokens; set at most that, or give more text."
        )
    return wrap(tokenizer, eos_token=EOS)


def wrap(tokenizer: Any, **special_tokens: str) -> Any:
    """A ``tokenizers`` tokenizer as transformers' own type."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special_tokens
    )


def load_pretrained(name: str) -> Any:
    """A pretrained tokenizer that pdx can use: fast, and with an end-of-document token."""
    from transformers import AutoTokenizer

    where = str(fetch("data.tokenizer", f"{name}/*", SAVED)) if is_url(name) else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as err:
        raise DataError(
            f"data.tokenizer={name}: cannot be loaded ({' '.join(str(err).split())}); it must be "
            "bpe, a directory or URL where save_pretrained wrote, or a hub id that can be reached."
        ) from err
    if not tokenizer.is_fast:
        raise DataError(
            f"data.tokenizer={name}: has no tokenizer.json; pdx needs a fast tokenizer; convert it "
            "or choose another."
        )
    if tokenizer.eos_token_id is None:
        raise DataError(
            f"data.tokenizer={name}: has no eos token, which must stand between documents; set "
            "one (tokenizer.eos_token = ...), save it, and name that directory."
        )
    return tokenizer


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest of the mapping from token to id: equal digests mean that logits can be compared."""
    return digest(tokenizer.get_vocab())


def pretrained_identity(tokenizer: Any) -> str:
    """Digest of all that a fast tokenizer does: vocabulary, merges, normaliser, eos."""
    return digest([tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token_id])


def vocab_size(tokenizer: Any) -> int:
    """One more than the largest id, holes included."""
    return max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)


class Encoder:
    """Text to ids and to the number of UTF-8 bytes that each id stands for.

    Special tokens that happen to stand in the text are read as text, so the id of eos means the
    end of a document and nothing else.

    Units:
        The bytes of a document's tokens always sum to the bytes of its text. A byte-level token
        has the bytes it is made of. For other tokenizers (normalised text, dropped spaces) a token
        has the bytes from the end of the one before it to its own end.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.backend = tokenizer.backend_tokenizer
        self.backend.encode_special_tokens = True
        self.backend.no_padding()
        self.backend.no_truncation()
        self.bytes_V: np.ndarray | None = None
        if type(self.backend.decoder).__name__ == "ByteLevel":
            self.bytes_V = np.zeros(vocab_size(tokenizer), dtype=np.int64)
            for token, index in self.backend.get_vocab(with_added_tokens=False).items():
                self.bytes_V[index] = len(token)  # its alphabet has one character a byte
            for index, added in self.backend.get_added_tokens_decoder().items():
                self.bytes_V[index] = len(added.content.encode())

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.backend.encode_special_tokens = True  # no part of what a pickle keeps

    def encode(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each text its ids, int64, and their bytes, int64."""
        encodings = self.backend.encode_batch(texts, add_special_tokens=False)
        return [self._measure(e, text) for e, text in zip(encodings, texts, strict=True)]

    def _measure(self, encoding: Any, text: str) -> tuple[np.ndarray, np.ndarray]:
        ids = np.asarray(encoding.ids, dtype=np.int64)
        total = len(text.encode())
        if self.bytes_V is not None:
            counts = self.bytes_V[ids]
            if counts.sum() == total:  # else a normaliser changed the text
                return ids, counts
        if len(ids) == 0:
            return ids, ids
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        widths = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000)
        bytes_before = np.concatenate([[0], np.cumsum(widths)])
        ends = np.asarray([end for _, end in encoding.offsets], dtype=np.int64)
        ends = np.maximum.accumulate(ends)
        ends[-1] = len(points)
        return ids, np.diff(bytes_before[ends], prepend=0)


def save(tokenizer: Any, directory: Path) -> None:
    """Write what ``AutoTokenizer.from_pretrained(directory)`` reads back."""
    tokenizer.save_pretrained(str(directory))
