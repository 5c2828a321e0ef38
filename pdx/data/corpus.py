"""What every text corpus has in common: its settings, and documents to read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pdx.build import check
from pdx.data.domains import Spans

MIN_BPE_VOCAB = 257  # 256 bytes and the end of a document
SPLITS = ("student", "teacher", "val", "test")


class Document(NamedTuple):
    """One text; documents of one ``group`` never part ways into different splits.

    Attributes:
        spans: where each domain begins; empty where the corpus has none.
    """

    name: str
    group: str
    text: str
    spans: Spans = ()


@dataclass(frozen=True, kw_only=True)
class TextCorpus:
    """The settings that all text corpora share; a corpus adds ``documents`` and ``identity``.

    Attributes:
        seq_len: tokens that a window predicts (it holds one more).
        stride: tokens between the starts of two windows; null: seq_len, so none is read twice.
        document_mask: whether attention and loss stop at the end of a document.
        tokenizer: "bpe" (byte-level BPE, trained on the train split alone), or a directory or hub
            id for ``AutoTokenizer``.
        vocab_size: of the BPE; null with a pretrained tokenizer.
        val_frac, test_frac: shares of the text, by bytes.
        teacher_frac: share of the train text kept for a teacher that must not have read the
            student's; may be 0.
        split_seed: which documents go where, and their order.
        domains: how a text's domain is told, which each corpus knows in its own way; null: it is
            not. No part of what the tokens are: a teacher and a store serve every choice of it.
    """

    seq_len: int
    stride: int | None
    document_mask: bool
    tokenizer: str
    vocab_size: int | None
    val_frac: float
    test_frac: float
    teacher_frac: float
    split_seed: int
    domains: str | None

    domain_names: ClassVar[tuple[str, ...]] = ()  # where they are known before any text is read
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self.seq_len >= 1, "data.seq_len", self.seq_len, "must be >= 1")
        check(
            self.stride is None or self.stride >= 1,
            "data.stride",
            self.stride,
            "must be >= 1, or null for seq_len",
        )
        for key in ("val_frac", "test_frac"):
            value = getattr(self, key)
            check(0 < value < 1, f"data.{key}", value, "must lie strictly between 0 and 1")
        check(
            self.val_frac + self.test_frac < 1,
            "data.val_frac + data.test_frac",
            self.val_frac + self.test_frac,
            "must be < 1: the rest is what is trained on",
        )
        check(
            0 <= self.teacher_frac < 1,
            "data.teacher_frac",
            self.teacher_frac,
            "must be >= 0 and < 1; 0 keeps no tokens for a teacher",
        )
        check(self.split_seed >= 0, "data.split_seed", self.split_seed, "must be >= 0")
        check(self.tokenizer != "", "data.tokenizer", "''", "must be bpe, a directory or a hub id")
        if self.tokenizer == "bpe":
            check(
                self.vocab_size is not None and MIN_BPE_VOCAB <= self.vocab_size <= 2**20,
                "data.vocab_size",
                self.vocab_size,
                f"must be from {MIN_BPE_VOCAB} (the bytes and the end of a document) to 1048576 "
                "with data.tokenizer=bpe",
            )
        else:
            check(
                self.vocab_size is None,
                "data.vocab_size",
                self.vocab_size,
                f"must be null with data.tokenizer={self.tokenizer}: a pretrained tokenizer "
                "brings its own vocabulary",
            )

    def documents(self) -> Iterator[Document]:
        """Every document, in an order that does not depend on the machine."""
        raise NotImplementedError

    def identity(self) -> Any:
        """JSON that changes when the documents change; costs far less than ``documents``."""
        raise NotImplementedError

    def source(self) -> str:
        """What the corpus is read from, for messages: ``key=value``."""
        raise NotImplementedError

    def content(self) -> dict[str, Any]:
        """What decides the tokens besides the settings: the text, and a pretrained tokenizer."""
        from pdx.data.tokenizer import load_pretrained, pretrained_identity

        content = {"corpus": self.identity()}
        if self.tokenizer != "bpe":
            content["tokenizer"] = pretrained_identity(load_pretrained(self.tokenizer))
        return content

    def build(self, directory: Path) -> dict[str, Any]:
        """Split, tokenise and write everything into ``directory``; returns the manifest."""
        from pdx.data.text import build_text

        return build_text(self, directory)
