"""Shards behind a URL: fetched before any is captured, and put there once they are."""

import os
from typing import Any

from tqdm import tqdm

from pdx.errors import StoreError
from pdx.files import locked
from pdx.remote import asking
from pdx.store.format import Shard, shard_path
from pdx.store.reader import Store

KEY = "env.shared_stores"
READ_ONLY = {"http", "https"}


def pull(store: Store, url: str, num_windows: int) -> None:
    """Fetch the shards that the first ``num_windows`` windows lack, as far as they are there.

    Raises:
        DataError: the URL cannot be reached.
        StoreError: a shard there is broken, or another store's.
    """
    directory, layout = store.directory, store.layout
    with locked(directory.parent / f"{directory.name}.pull.lock"), asking(KEY, url):
        system, there = _place(store, url)
        wanted = {
            shard_path(directory, shard, part): (shard, part)
            for shard in layout.missing(directory, num_windows)
            for part in layout.lacking(directory, shard)
        }
        found = [path for path in wanted if _is_there(system, f"{there}/{path.name}")]
        for path in tqdm(found, desc=f"fetching {there}", unit="shard", disable=not found):
            half = path.with_name(f".{path.name}.part")
            system.get_file(f"{there}/{path.name}", str(half))
            shard, part = wanted[path]
            try:
                Shard(half, layout.bounds(shard), store.id, store.ranks_crc, part)
            except StoreError as err:
                half.unlink()
                raise StoreError(
                    f"{KEY}={url}: {path.name} of {store.id} is broken there ({err}); delete it "
                    "there, and it is captured anew."
                ) from err
            os.replace(half, path)


def push(store: Store, url: str, num_windows: int) -> None:
    """Put the shards of the first ``num_windows`` windows where they are not yet; all or nothing.

    Raises:
        DataError: the URL cannot be reached or written to.
    """
    with asking(KEY, url):
        system, there = _place(store, url)
        if READ_ONLY & {system.protocol, *system.protocol}:
            return
        shards = range(store.layout.shards_for(num_windows))
        files = [
            shard_path(store.directory, s, part) for s in shards for part in store.layout.parts
        ]
        system.makedirs(there, exist_ok=True)
        lacking = [f.name for f in files if not _is_there(system, f"{there}/{f.name}")]
        for name in tqdm(lacking, desc=f"sharing {there}", unit="shard", disable=not lacking):
            part = f"{there}/.{name}.part-{os.getpid()}"  # a reader never sees half of it
            system.put_file(str(store.directory / name), part)
            system.mv(part, f"{there}/{name}")


def _place(store: Store, url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    system, root = url_to_fs(url)
    return system, f"{root.rstrip('/')}/{store.id}"


def _is_there(system: Any, path: str) -> bool:
    """Whether a file exists; fsspec's own answer is no where a web server does not answer."""
    try:
        system.info(path)
    except FileNotFoundError as err:
        if isinstance(err.__cause__, OSError):
            raise err.__cause__ from err
        return False
    return True
