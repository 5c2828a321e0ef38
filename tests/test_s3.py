"""Data and stores in a bucket: against a local server that speaks S3."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from numerics import component, taught

from pdx.config import Run
from pdx.env import Env
from pdx.errors import DataError, StoreError
from pdx.shared import Shared

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'pdx[s3]'")
pytest.importorskip("moto.server", reason="moto is not installed: pip install 'pdx[dev]'")

Tiny = Callable[..., tuple[Run, Env]]
FEW = ["train.num_tokens=4096", "eval.num_tokens_teacher=0"]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty bucket, found as a user's environment would say."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "PDX_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pdx.known._KNOWN", {})
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("pdx")
    yield "s3://pdx"
    s3fs.S3FileSystem().rm("pdx", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_corpus_in_a_bucket_is_the_same_corpus(bucket: str, tmp_path: Path):
    import s3fs

    settings = {"seq_len": 8, "vocab_size": 300, "stride": None}
    for name in ("a/1.txt", "a/b/2.txt", "a/b/3.bin"):
        path = tmp_path / "here" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}\n" * 5)
        s3fs.S3FileSystem().put_file(str(path), f"pdx/{name}")
    here = component("data", "files", **settings, paths=[f"{tmp_path}/here/**/*.txt"])
    there = component("data", "files", **settings, paths=[f"{bucket}/a/**/*.txt"])
    assert list(there.documents()) == list(here.documents())
    assert there.identity() == here.identity()
    nothing = component("data", "files", **settings, paths=[f"{bucket}/none/*.txt"])
    with pytest.raises(DataError, match=r"data\.paths=s3://pdx/none/\*\.txt: matches no file"):
        nothing.identity()
    absent = component("data", "files", **settings, paths=["s3://not-there/*.txt"])
    with pytest.raises(
        DataError, match=r"data\.paths=s3://not-there/.*: (matches no|cannot be re)"
    ):
        absent.identity()


def test_a_teacher_in_a_bucket_is_the_same_teacher(tiny_at: Tiny, bucket: str, tmp_path: Path):
    """One run, whether its teacher lies here or there, and the same word on the same tokens."""
    import s3fs

    saved, settings = tmp_path / "saved", [*FEW, "teacher=pretrained"]
    plain = Shared.of(*tiny_at(tmp_path / "out", *FEW, "loss=none", "teacher=none"))
    plain.run.student.init(32, plain.token_set.seq_len, 3).save_pretrained(saved)
    plain.token_set.tokenizer().save_pretrained(saved)
    (saved / "pytorch_model.bin").write_bytes(b"never loaded")
    s3fs.S3FileSystem().put(str(saved), "pdx/teacher", recursive=True)
    here, there = (
        Shared.of(*tiny_at(tmp_path / "out", *settings, f"teacher.path={path}"))
        for path in (saved, f"{bucket}/teacher")
    )
    assert there.run.run_id == here.run.run_id and there.store_dir == here.store_dir
    assert not list(there.run.teacher.directory.glob("*.bin")), "a pickle was fetched"
    there.ensure_store(32)
    here.verify_store()
    with pytest.raises(DataError, match=r"teacher\.path=s3://pdx/none/\*: matches no file"):
        assert tiny_at(tmp_path / "out", *settings, f"teacher.path={bucket}/none")[0].run_id


def test_a_store_is_shared_in_a_bucket(
    tiny_at: Tiny, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One machine captures, another fetches the same bytes and needs no teacher."""
    import s3fs

    run, env = taught(
        *tiny_at(tmp_path / "one", *FEW, "teacher.num_tokens=1024", "store.hidden_layers=[-1]")
    )
    one = Shared.of(run, replace(env, shared_stores=f"{bucket}/stores"))
    one.ensure_store(64)
    names = {f.name: f.read_bytes() for f in one.store_dir.glob("*.bin")}
    there = {key.rpartition("/")[2] for key in s3fs.S3FileSystem().find("pdx/stores")}
    assert there == set(names) and len(names) == 2, "no half of a file is left"
    monkeypatch.setattr(Shared, "load_teacher", lambda *_: pytest.fail("asked the teacher again"))

    def machine(name: str) -> Shared:
        (tmp_path / name).mkdir()
        for kind in ("data", "runs"):
            (tmp_path / name / kind).symlink_to(getattr(env.paths, kind))
        return replace(one, env=replace(one.env, outputs=str(tmp_path / name)))

    two = machine("two")
    two.ensure_store(64)
    assert {f.name: f.read_bytes() for f in two.store_dir.glob("*.bin")} == names
    key = f"pdx/stores/{one.store_dir.name}/shard-00000.bin"
    s3fs.S3FileSystem().pipe_file(key, names["shard-00000.bin"][:-1])
    three = machine("three")
    with pytest.raises(StoreError, match=r"env\.shared_stores=s3://pdx/stores: shard-00000.bin .*"):
        three.ensure_store(64)
    assert not list(three.store_dir.glob("*shard*"))
