"""From documents to token shards: read, split, train the tokenizer, encode."""

import hashlib
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pdx.data import tokenizer as tokenizers_
from pdx.data.corpus import SPLITS, TextCorpus
from pdx.data.domains import LabelWriter, Spans
from pdx.data.encode import Parts, Texts
from pdx.data.shards import ShardWriter, token_dtype
from pdx.data.split import Sketches, assign, clusters, leaks, random_order
from pdx.errors import DataError
from pdx.files import digest, require_space

CHUNK_BYTES = 4_000_000  # text encoded at a time


class Spool:
    """All documents in one temporary file, so that a corpus is read once and memory stays flat."""

    def __init__(self, corpus: TextCorpus, path: Path) -> None:
        self.groups: list[str] = []
        self.spans: list[Spans] = []
        self.sketches = Sketches()
        starts = [0]
        content = hashlib.blake2b()
        with open(path, "wb") as file:
            for document in tqdm(corpus.documents(), desc="reading", unit=" documents"):
                if not document.text.strip():
                    continue
                try:
                    payload = document.text.encode()
                except UnicodeEncodeError as err:
                    raise DataError(
                        f"{corpus.source()}: document {document.name} is not valid Unicode "
                        f"({err}); drop or mend it."
                    ) from err
                file.write(payload)
                content.update(payload)
                starts.append(starts[-1] + len(payload))
                self.groups.append(document.group)
                self.spans.append(document.spans)
                self.sketches.add(document.text)
        if not self.groups:
            raise DataError(f"{corpus.source()}: holds no text; name a corpus that does.")
        starts_D = np.asarray(starts)
        self.num_bytes = np.diff(starts_D)
        self.digest = content.hexdigest()
        self.texts = Texts(path, starts_D)

    def remove(self) -> None:
        self.texts.close()
        self.texts.path.unlink()


def _chunks(documents: np.ndarray, num_bytes: np.ndarray) -> Iterator[Sequence[int]]:
    """Runs of documents of about ``CHUNK_BYTES``."""
    chunk: list[int] = []
    held = 0
    for document in documents:
        chunk.append(int(document))
        held += int(num_bytes[document])
        if held >= CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def build_text(corpus: TextCorpus, directory: Path) -> dict[str, Any]:
    """Write tokenizer and shards into ``directory``; returns the manifest's facts."""
    began = time.monotonic()
    spool = Spool(corpus, directory / "spool.tmp")
    cluster_of = clusters(spool.sketches, spool.groups)
    shares = {
        "val": corpus.val_frac,
        "test": corpus.test_frac,
        "teacher": corpus.teacher_frac,
    }
    split_of = assign(cluster_of, spool.num_bytes, shares, corpus.split_seed)
    members = {
        split: np.flatnonzero(split_of == index)[
            random_order(int((split_of == index).sum()), corpus.split_seed, index)
        ]
        for index, split in enumerate(SPLITS)
    }
    total = int(spool.num_bytes.sum())
    # A token has 4 bytes in a shard and 8 in a part, and stands for 2 bytes of text at least.
    require_space(directory, 6 * total, "tokenised text")

    if corpus.tokenizer == "bpe":
        assert corpus.vocab_size is not None
        train = np.concatenate([members["student"], members["teacher"]])
        texts = (spool.texts[d] for d in tqdm(train, desc="training BPE", unit=" documents"))
        tokenizer = tokenizers_.train_bpe(texts, corpus.vocab_size)
    else:
        tokenizer = tokenizers_.load_pretrained(corpus.tokenizer)
    tokenizers_.save(tokenizer, directory / "tokenizer")
    vocab_size = tokenizers_.vocab_size(tokenizer)
    eos_id = int(tokenizer.eos_token_id)

    labels = None
    if corpus.domains is not None:
        names = {name for spans in spool.spans for _, name in spans}
        labels = LabelWriter(directory, corpus, names)
    stride = corpus.stride or corpus.seq_len
    chunks = {s: list(_chunks(members[s], spool.num_bytes)) for s in SPLITS}
    ends = [len(chunk) for split in SPLITS for chunk in chunks[split]]
    order = hashlib.blake2b(np.concatenate([members[s] for s in SPLITS]).tobytes()).hexdigest()
    named = digest([tokenizers_.pretrained_identity(tokenizer), spool.digest, order, ends])
    parts = Parts(directory.parent / f".parts-{named}", tokenizers_.Encoder(tokenizer), spool.texts)
    splits = {}
    with tqdm(total=total, desc="tokenising", unit="B", unit_scale=True) as bar:
        for split in SPLITS:
            if len(members[split]) == 0:
                continue
            writer = ShardWriter(
                directory,
                split,
                dtype=token_dtype(vocab_size),
                seq_len=corpus.seq_len,
                stride=stride,
                document_mask=corpus.document_mask,
            )
            encoded = parts.read(split, chunks[split])
            for chunk, documents in zip(chunks[split], encoded, strict=True):
                for number, (ids, counts) in zip(chunk, documents, strict=True):
                    ids, counts = np.append(ids, eos_id), np.append(counts, 0)
                    writer.add(ids, counts)
                    if labels is not None:
                        labels.add_document(spool.spans[number], counts)
                writer.flush()
                bar.update(int(spool.num_bytes[chunk].sum()))
            if labels is not None:
                labels.finish(split)
            splits[split] = {"num_documents": len(members[split]), **writer.finish()}
    spool.remove()
    parts.remove()
    return {
        "vocab_size": vocab_size,
        "eos_id": eos_id,
        "seq_len": corpus.seq_len,
        "stride": stride,
        "document_mask": corpus.document_mask,
        "dtype": token_dtype(vocab_size),
        "tokenizer_digest": tokenizers_.tokenizer_digest(tokenizer),
        "splits": splits,
        "leaks": leaks(spool.sketches, split_of),
        "shingles_sampled_one_in": spool.sketches.sample_one_in,
        "num_documents": len(spool.groups),
        "num_clusters": int(cluster_of.max()) + 1,
        "num_bytes": total,
        "python": platform.python_version(),
        "seconds": round(time.monotonic() - began, 2),
    }
