"""Files behind URLs: whatever fsspec reads (s3://, gs://, https://, hf://), kept in a local cache.

What a URL matches is fetched once for every state that its server reports, whole, and published
under that state's name: a killed transfer leaves nothing, and of two processes one fetches.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from pdx.errors import DataError, PdxError
from pdx.files import digest, locked, publish
from pdx.known import once

# What servers call a file's state; HTTP reports it of a file and not in a listing.
STATE = ("ETag", "Content-MD5", "Digest", "Last-Modified", "LastModified", "last_modified")
STATE += ("mtime", "updated", "created", "md5Hash", "blob_id")


def is_url(path: str) -> bool:
    """Whether a path is fetched, and not read where it lies."""
    return "://" in path


def cache_dir() -> Path:
    """Where fetched files are kept: PDX_CACHE, or ~/.cache/pdx."""
    return Path(os.environ.get("PDX_CACHE", "~/.cache/pdx")).expanduser()


def fetch(key: str, url: str, suffixes: tuple[str, ...] = ()) -> Path:
    """A local directory of the files that a URL with wildcards matches, in their folders.

    Asks the server once a process, and never in the runs of a sweep: what its first process
    fetched stands (``pdx.known``).

    Args:
        key: the config's key that holds the URL, for messages.
        suffixes: of files to take; all if empty.

    Raises:
        DataError: nothing matches, the server cannot be reached, or its protocol's package is
            not installed.
    """
    found = once(
        digest(["remote", url, suffixes]), lambda: str(_fetch(key, url, suffixes).resolve())
    )
    return Path(found)


def _fetch(key: str, url: str, suffixes: tuple[str, ...]) -> Path:
    from fsspec.core import url_to_fs

    with asking(key, url):
        system, pattern = url_to_fs(url)
        listed: dict[str, Any] = system.glob(pattern, detail=True)
        files = {
            path: info if set(STATE) & set(info) else system.info(path)
            for path, info in sorted(listed.items())
            if info["type"] == "file" and path.endswith(suffixes or "")
        }
    if not files:
        raise DataError(
            f"{key}={url}: matches no file{' of ' if suffixes else ''}{', '.join(suffixes)}; "
            "** descends, and a directory is written with /* at its end."
        )
    places = {path: PurePosixPath(path) for path in files}
    top = os.path.commonpath([place.parent for place in places.values()])
    names = {path: place.relative_to(top).as_posix() for path, place in places.items()}
    final = cache_dir() / digest([url, {names[path]: _state(files[path]) for path in files}])
    with locked(final.with_suffix(".lock")):
        if not final.is_dir():
            with publish(final) as directory:
                for path, name in names.items():
                    (directory / name).parent.mkdir(parents=True, exist_ok=True)
                    with asking(key, url):
                        system.get_file(path, str(directory / name), callback=_bar(name))
    return final


def _state(info: dict[str, Any]) -> dict[str, str]:
    return {name: str(info[name]) for name in ("size", *STATE) if name in info}


def _bar(name: str) -> Any:
    from fsspec.callbacks import TqdmCallback

    return TqdmCallback({"desc": f"fetching {name}", "unit": "B", "unit_scale": True})


@contextmanager
def asking(key: str, url: str) -> Iterator[None]:
    """Whatever a protocol's package raises, as an error that names the key and the URL."""
    try:
        yield
    except PdxError:
        raise
    except ImportError as err:  # fsspec names the package
        raise DataError(f"{key}={url}: its protocol needs a package ({err}); install it.") from err
    except Exception as err:  # of whatever type a protocol's package raises
        said = " ".join(f"{type(err).__name__}: {err}".split())[:300]
        raise DataError(
            f"{key}={url}: cannot be reached ({said}); check the address and your rights to it, or "
            "use files of this machine."
        ) from err
