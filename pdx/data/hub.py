"""Any Hugging Face dataset as a corpus."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from pdx.build import check
from pdx.data.corpus import Document, TextCorpus
from pdx.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Hub(TextCorpus):
    """A dataset through ``datasets.load_dataset``: for text at the size of real pre-training.

    With ``revision`` a full commit hash, what was prepared once is found again without a network.

    Attributes:
        name: a dataset of the Hub, or a local directory of parquet files.
        subset: its configuration ("sample-10BT"); null: its only one.
        split: the dataset's split to read; pdx makes its own val and test from it.
        text_field: the column that holds the text.
        streaming: read over the network as one goes, instead of downloading all of it first.
        max_documents: stop after so many; null: all.
        revision: branch, tag or commit; null: the newest.
        domains: the column that names a text's domain; or null.
    """

    name: str
    subset: str | None
    split: str
    text_field: str
    streaming: bool
    max_documents: int | None
    revision: str | None

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.name != "", "data.name", "''", "must be a dataset's name or a directory")
        check(
            self.max_documents is None or self.max_documents >= 1,
            "data.max_documents",
            self.max_documents,
            "must be >= 1, or null for all",
        )

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Whatever ``datasets`` cannot find, reach or read is an error of the corpus."""
        from datasets.exceptions import DatasetsError

        try:
            yield
        except (OSError, ValueError, DatasetsError) as err:
            if isinstance(err, DataError):
                raise
            raise DataError(
                f"{self.source()}: cannot be read ({' '.join(str(err).split())}); check name, "
                "subset, split and revision; without a network use a local directory as data.name."
            ) from err

    def documents(self) -> Iterator[Document]:
        import datasets

        with self._asking():
            rows: Any = datasets.load_dataset(
                self.name,
                self.subset,
                split=self.split,
                streaming=self.streaming,
                revision=self.revision,
            )
            for number, row in enumerate(islice(rows, self.max_documents)):
                asked = {"text_field": self.text_field, "domains": self.domains}
                for key, column in asked.items():
                    if column is not None and not isinstance(row.get(column), str):
                        raise DataError(
                            f"data.{key}={column}: row {number} of data.name={self.name} has no "
                            f"such text; its columns are {', '.join(sorted(row))}; name one that "
                            "holds strings."
                        )
                spans = ((0, row[self.domains]),) if self.domains else ()
                yield Document(str(number), str(number), row[self.text_field], spans)

    def identity(self) -> str:
        """The commit if one is given, else what ``datasets`` makes of the data files' state."""
        if re.fullmatch("[0-9a-f]{40}", self.revision or ""):
            return str(self.revision)
        import datasets

        with self._asking():
            found = datasets.load_dataset_builder(self.name, self.subset, revision=self.revision)
            return str(found.hash)

    def source(self) -> str:
        return f"data.name={self.name} (subset={self.subset}, split={self.split})"
