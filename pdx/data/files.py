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
from pdx.data.domains import Spans
from pdx.errors import DataError
from pdx.files import digest, digest_file
from pdx.remote import fetch, is_url

TEXT = (".txt", ".py", ".md")
RECORDS = (".jsonl", ".parquet")
FIELD = "field:"


@dataclass(frozen=True, kw_only=True)
class Files(TextCorpus):
    """Your own text: .txt, .py and .md are one document each, .jsonl and .parquet one a record.

    Attributes:
        paths: globs (``**`` descends), of URLs too (``s3://...``, see ``pdx.remote``); every one
            must match.
        text_field: the field of .jsonl and .parquet that holds the text.
        group_by: "directory" keeps the text files of one directory in one split (files at the top
            are on their own, as are records); "document" parts them freely.
        domains: "directory" (the first below what all files have in common), "suffix" (py, md ...),
            "field:NAME" (of records); or null.
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
        by = self.domains or "directory"
        known = by in ("directory", "suffix") or (by.startswith(FIELD) and by != FIELD)
        allowed = "must be directory, suffix, field:NAME or null"
        check(known, "data.domains", self.domains, allowed)

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
        asked = {f"data.text_field={self.text_field}": self.text_field}
        if (self.domains or "").startswith(FIELD):
            asked[f"data.domains={self.domains}"] = str(self.domains).removeprefix(FIELD)
        for path in files:
            name = path.relative_to(top).as_posix()
            domain = self._domain(path, top)
            if path.suffix in TEXT:
                by_directory = self.group_by == "directory" and path.parent != top
                group = path.parent.relative_to(top).as_posix() if by_directory else name
                yield Document(name, group, _read_text(path), domain)
            else:
                read = _read_jsonl if path.suffix == ".jsonl" else _read_parquet
                for where, (text, *told) in read(path, asked):
                    spans = ((0, told[0]),) if told else domain
                    yield Document(f"{name}:{where}", f"{name}:{where}", text, spans)

    def _domain(self, path: Path, top: Path) -> Spans:
        """What the place and name of a file tell of its domain."""
        if self.domains == "suffix":
            return ((0, path.suffix[1:]),)
        if self.domains == "directory":
            if path.parent == top:
                raise DataError(
                    f"data.domains=directory: {path} lies in no directory below {top}, which all "
                    "files have in common; put each domain's files into a directory of its name."
                )
            return ((0, path.relative_to(top).parts[0]),)
        if self.domains is not None and path.suffix in TEXT:
            raise DataError(
                f"data.domains={self.domains}: {path} is a text and has no fields; use suffix or "
                "directory, or give records."
            )
        return ()

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


def _read_jsonl(path: Path, asked: dict[str, str]) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and what the fields hold, each by the setting that asks for it."""
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                record = json.loads(line)
                for key, field in asked.items():
                    if not isinstance(record, dict) or field not in record:
                        has = ", ".join(sorted(record)) if isinstance(record, dict) else "no fields"
                        raise DataError(
                            f"{key}: {path}:{number} has no such field; it has {has}; name one of "
                            "them."
                        )
                    if not isinstance(record[field], str):
                        raise DataError(
                            f"{key}: {path}:{number} holds {type(record[field]).__name__}, not "
                            "text; name a field of strings."
                        )
                yield number, [record[field] for field in asked.values()]
    except json.JSONDecodeError as err:
        raise _unreadable(Path(f"{path}:{number}"), err) from err
    except (OSError, UnicodeDecodeError) as err:
        raise _unreadable(path, err) from err


def _read_parquet(path: Path, asked: dict[str, str]) -> Iterator[tuple[int, list[str]]]:
    """Row numbers and what the columns hold, each by the setting that asks for it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            kinds = {f.name: f.type for f in file.schema_arrow}
            for key, field in asked.items():
                if field not in kinds or not (
                    pa.types.is_string(kinds[field]) or pa.types.is_large_string(kinds[field])
                ):
                    known = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
                    raise DataError(
                        f"{key}: {path} has no such column of strings; it has {known}; name one "
                        "of them."
                    )
            number, columns = 0, list(dict.fromkeys(asked.values()))
            for batch in file.iter_batches(batch_size=1024, columns=columns):
                values = (batch.column(field).to_pylist() for field in asked.values())
                for row in zip(*values, strict=True):
                    number += 1
                    for key, value in zip(asked, row, strict=True):
                        if value is None:
                            raise DataError(f"{key}: {path} row {number} is null; drop such rows.")
                    yield number, list(row)
    except (OSError, pa.ArrowException) as err:
        raise _unreadable(path, err) from err
