"""Text files on this machine as a corpus."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import ClassVar

from pdx.build import check
from pdx.data.corpus import Document, TextCorpus
from pdx.errors import DataError
from pdx.files import digest, digest_file
from pdx.remote import fetch, is_url

TEXT = (".txt", ".py", ".md")
RECORDS = (".jsonl", ".parquet")


@dataclass(frozen=True, kw_only=True)
class Files(TextCorpus):
    """Your own text: .txt, .py and .md are one document each, .jsonl and .parquet one a record.

    Attributes:
        paths: globs (``**`` descends), of URLs too (``s3://...``, see ``pdx.remote``); every one
            must match.
        text_field: the field of .jsonl and .parquet that holds the text.
        group_by: "directory" keeps the text files of one directory in one split (files at the top
            are on their own, as are records); "document" parts them freely.
    """

    paths: list[str]
    text_field: str
    group_by: str

    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.paths) > 0, "data.paths", self.paths, "must name at least one glob")
        check(
            self.group_by in ("directory", "document"),
            "data.group_by",
            self.group_by,
            "must be directory or document",
        )

    def _files(self) -> list[Path]:
        """Every file once, sorted."""
        found: set[str] = set()
        for pattern in self.paths:
            if is_url(pattern):
                tree = fetch("data.paths", pattern, TEXT + RECORDS)
                matched = [str(p) for p in tree.rglob("*")]
            else:
                matched = glob(os.path.expanduser(pattern), recursive=True)
            files = [p for p in matched if os.path.isfile(p)]
            if not files:
                what = "only directories; add /**/*.txt or the like" if matched else "nothing"
                raise DataError(
                    f"data.paths={pattern}: matches {what}; a glob must match at least one of "
                    f"{', '.join(TEXT + RECORDS)}; relative ones start at {os.getcwd()}."
                )
            for path in files:
                if not path.endswith(TEXT + RECORDS):
                    raise DataError(
                        f"data.paths={pattern}: matches {path}, which is none of "
                        f"{', '.join(TEXT + RECORDS)}; narrow the glob, or convert the file."
                    )
            found.update(os.path.abspath(p) for p in files)
        return sorted(Path(p) for p in found)

    def documents(self) -> Iterator[Document]:
        files = self._files()
        top = Path(os.path.commonpath([p.parent for p in files]))
        for path in files:
            name = path.relative_to(top).as_posix()
            if path.suffix in TEXT:
                by_directory = self.group_by == "directory" and path.parent != top
                group = path.parent.relative_to(top).as_posix() if by_directory else name
                yield Document(name, group, _read_text(path))
            else:
                read = _read_jsonl if path.suffix == ".jsonl" else _read_parquet
                for where, text in read(path, self.text_field):
                    yield Document(f"{name}:{where}", f"{name}:{where}", text)

    def identity(self) -> str:
        """Digest of every file's name and bytes."""
        files = self._files()
        top = os.path.commonpath([p.parent for p in files])
        out = []
        for path in files:
            try:
                out.append([os.path.relpath(path, top), digest_file(path, length=64)])
            except OSError as err:
                raise _unreadable(path, err) from err
        return digest(out, length=64)

    def source(self) -> str:
        return f"data.paths={self.paths}"


def _unreadable(path: Path, err: Exception) -> DataError:
    return DataError(f"data.paths: {path} cannot be read ({err}); mend it, or narrow the glob.")


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise _unreadable(path, err) from err


def _read_jsonl(path: Path, field: str) -> Iterator[tuple[int, str]]:
    """Line numbers and texts."""
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                record = json.loads(line)
                if not isinstance(record, dict) or field not in record:
                    known = ", ".join(sorted(record)) if isinstance(record, dict) else "no fields"
                    raise DataError(
                        f"data.text_field={field}: {path}:{number} has no such field; it has "
                        f"{known}; name one of them."
                    )
                if not isinstance(record[field], str):
                    raise DataError(
                        f"data.text_field={field}: {path}:{number} holds "
                        f"{type(record[field]).__name__}, not text; name a field of strings."
                    )
                yield number, record[field]
    except json.JSONDecodeError as err:
        raise _unreadable(Path(f"{path}:{number}"), err) from err
    except (OSError, UnicodeDecodeError) as err:
        raise _unreadable(path, err) from err


def _read_parquet(path: Path, field: str) -> Iterator[tuple[int, str]]:
    """Row numbers and texts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            kinds = {f.name: f.type for f in file.schema_arrow}
            if field not in kinds or not (
                pa.types.is_string(kinds[field]) or pa.types.is_large_string(kinds[field])
            ):
                known = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
                raise DataError(
                    f"data.text_field={field}: {path} has no such column of strings; it has "
                    f"{known}; name one of them."
                )
            number = 0
            for batch in file.iter_batches(batch_size=1024, columns=[field]):
                for text in batch.column(0).to_pylist():
                    number += 1
                    if text is None:
                        raise DataError(
                            f"data.text_field={field}: {path} row {number} is null; drop such rows."
                        )
                    yield number, text
    except (OSError, pa.ArrowException) as err:
        raise _unreadable(path, err) from err
