"""The running Python's own standard library as a corpus."""

import hashlib
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pdx.data.corpus import Document, TextCorpus
from pdx.errors import DataError

NOT_STDLIB = {"site-packages", "dist-packages", "__pycache__"}
TESTS = {"test", "tests", "idle_test"}


@dataclass(frozen=True, kw_only=True)
class Stdlib(TextCorpus):
    """Sources of the standard library: real text, offline, on every machine that runs pdx.

    It differs between Python versions; use data=synthetic for numbers that must not.

    Attributes:
        include_tests: also read test packages (about 11M tokens of a 1,024 BPE instead of 4M).
    """

    include_tests: bool

    version: ClassVar[int] = 1

    def _texts(self) -> Iterator[tuple[Path, str]]:
        """Every source file's path below the library, and its text."""
        root = Path(sysconfig.get_paths()["stdlib"])
        for path in sorted(root.rglob("*.py")):
            inside = path.relative_to(root)
            folders = set(inside.parts[:-1])
            if folders & NOT_STDLIB or (folders & TESTS and not self.include_tests):
                continue
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
            yield Document(name, name if alone else folder, text)
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
