"""The running Python's own standard library as a corpus."""

import hashlib
import os
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pdx.build import check
from pdx.data.corpus import Document, TextCorpus
from pdx.data.domains import Spans
from pdx.errors import DataError

NOT_STDLIB = {"site-packages", "dist-packages", "__pycache__"}
TESTS = {"test", "tests", "idle_test"}
# A comment, a text in three quotes, a string in one: what stands in one of them begins no other.
QUOTED = re.compile(
    rb"""\#[^\n]* | [rRuU]?("{3}|'{3})(?:\\.|.)*?\1 """
    rb"""| "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*'""",
    re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True, kw_only=True)
class Stdlib(TextCorpus):
    """Sources of the standard library: real text, offline, on every machine that runs pdx.

    It differs between Python versions; use data=synthetic for numbers that must not.

    Attributes:
        include_tests: also read test packages (about 11M tokens of a 1,024 BPE instead of 4M).
        domains: "prose" tells prose (comments, and texts in three quotes that begin a line: a third
            of the bytes, a fifth with tests) from code (all else); or null.
    """

    include_tests: bool

    domain_names: ClassVar[tuple[str, ...]] = ("code", "prose")
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.domains in (None, "prose")
        check(known, "data.domains", self.domains, "must be prose or null")

    def _texts(self) -> Iterator[tuple[Path, str]]:
        """Every source file's path below the library, and its text."""
        root = Path(sysconfig.get_paths()["stdlib"])
        unread = NOT_STDLIB if self.include_tests else NOT_STDLIB | TESTS
        paths = []
        for folder, folders, names in os.walk(root):
            folders[:] = [f for f in folders if f not in unread]  # not even walked
            paths += [Path(folder, n) for n in names if n.endswith(".py")]
        for path in sorted(paths):
            inside = path.relative_to(root)
            if inside.name.startswith("_sysconfigdata"):  # written by the build, not by people
                continue
            try:
                text = path.read_bytes().decode("utf-8")
            except (UnicodeDecodeError, OSError):  # test data with odd encodings; broken links
                continue
            if text.strip():
                yield inside, text

    def documents(self) -> Iterator[Document]:
        """One document a file; a package's own files stay together, top-level modules do not."""
        empty = True
        for inside, text in self._texts():
            empty = False
            name, folder = inside.as_posix(), inside.parent.as_posix()
            alone = folder in (".", "test")  # half of all text lies right in test/: no package
            spans = prose_and_code(text) if self.domains else ()
            yield Document(name, name if alone else folder, text, spans)
        if empty:
            raise DataError(
                f"{self.source()}: holds no *.py file; this Python ships without its sources: use "
                "another Python, or data=files."
            )

    def identity(self) -> str:
        """Digest of names and texts."""
        sha = hashlib.sha256()
        for inside, text in self._texts():
            payload = text.encode()
            sha.update(f"{inside.as_posix()}\0{len(payload)}\0".encode())
            sha.update(payload)
        return sha.hexdigest()

    def source(self) -> str:
        return f"data=stdlib ({sysconfig.get_paths()['stdlib']})"


def prose_and_code(text: str) -> Spans:
    """Where each begins in a Python source; by its looks, so that no version of Python matters."""
    raw = text.encode()
    spans = [(0, "code")]
    for found in QUOTED.finditer(raw):
        start, end = found.span()
        begins_line = not raw[raw.rfind(b"\n", 0, start) + 1 : start].strip()
        if raw[start : start + 1] == b"#" or (found[1] and begins_line):
            spans += [(start, "prose"), (end, "code")]
    return spans
