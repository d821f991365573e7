"""Files made to harm: each is refused in one sentence, runs nothing, leaves nothing behind, and
takes little of the machine.
"""

import io
import json
import os
import pickle  # noqa: TID251 (to build what must be refused)
import resource
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as arrow_parquet
import pytest

from recmind_dist.config.yaml import load_yaml
from recmind_dist.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    RecmindError,
    StoreError,
    TextError,
)
from recmind_dist.ingest import DatasetSettings, ingest_dataset, objects
from recmind_dist.ingest.archives import TAIL, Member, take_members
from recmind_dist.ingest.fetch import SMOLLM2_GGUF_BYTES
from recmind_dist.storage import read_json, read_manifest, verify_manifest, write_manifest
from recmind_dist.text.gguf import convert_smollm2
from tests.processes import Program

MEMORY = 2 << 30  # bytes that a hostile file may make a process take, imports included


class Touch:
    """Unpickled, it makes a file: the sign that code was run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """A path that nothing may have made at the end."""
    path = tmp_path / "code-was-run"
    yield path
    assert not path.exists()


def one_sentence(error: pytest.ExceptionInfo[Exception], named: str) -> None:
    said = str(error.value)
    assert named in said
    assert "\n" not in said
    assert len(said) < 1000


def torch_file(mark: Path, zipped: bool) -> bytes:
    """What torch.save writes, with a pickle that runs code."""
    if not zipped:
        return pickle.dumps(Touch(mark))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Touch(mark)))
        archive.writestr("archive/version", "3")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "run_dir: !!python/object/apply:os.system ['touch code-was-run']",
        "!!python/object/new:os.system ['touch code-was-run']",
        "a: !!python/name:os.system",
        "? !!python/object/apply:os.system ['touch code-was-run']\n: x",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]",
        "a: &a {<<: *a}",
        "a: !include /etc/passwd",
        "%TAG ! tag:yaml.org,2002:python/object/apply:\n---\na: !os.system ['touch code-was-run']",
        "a: " + "[" * 100_000,
        "- " * 100_000,
        "{a: " * 100_000,
        "".join(f"k{n}: [1, 2, 3]\n" for n in range(4_000)),
        "a: 0x" + "F" * 20_000,
        "a: " + "9" * 20_000,
        "#" * (1 << 20),
    ],
    ids=lambda text: text[:30],
)
def test_hostile_yaml(
    tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_yaml(tmp_path / "c.yaml")
    one_sentence(error, "c.yaml")


def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless"):
        with pytest.raises(ConfigError, match="not a plain file"):
            load_yaml(tmp_path / name)
        with pytest.raises(StoreError, match="not a plain file"):
            read_json(tmp_path / name)
        with pytest.raises(DataError, match="no such file"):
            ingest(tmp_path / name, tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_named_safetensors_as_a_model(tmp_path: Path, mark: Path, zipped: bool) -> None:
    from recmind_dist.text import TextSettings
    from recmind_dist.text.encoder import TextEncoder
    from tests.tiny_language_model import make_bert

    make_bert(tmp_path / "bert")
    weights = tmp_path / "bert" / "model.safetensors"
    weights.unlink()
    weights.write_bytes(torch_file(mark, zipped))
    (tmp_path / "bert" / "pytorch_model.bin").write_bytes(torch_file(mark, zipped))
    with pytest.raises(TextError) as error:
        TextEncoder.load(TextSettings(model=str(tmp_path / "bert")))
    one_sentence(error, str(tmp_path / "bert"))
    weights.unlink()
    with pytest.raises(TextError) as error:
        TextEncoder.load(TextSettings(model=str(tmp_path / "bert")))
    one_sentence(error, "pickled .bin weights are not read")


def test_a_model_that_brings_its_own_code(tmp_path: Path, mark: Path) -> None:
    from recmind_dist.text import TextSettings
    from recmind_dist.text.encoder import TextEncoder
    from tests.tiny_language_model import make_bert

    make_bert(tmp_path / "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    config |= {
        "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
        "model_type": "evil",
    }
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config))
    code = (
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
        "class Config: pass\nclass Model: pass\n"
    )
    (tmp_path / "bert" / "evil.py").write_text(code)
    with pytest.raises(TextError) as error:
        TextEncoder.load(TextSettings(model=str(tmp_path / "bert")))
    one_sentence(error, str(tmp_path / "bert"))


@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_named_safetensors_as_a_checkpoint(
    tmp_path: Path, mark: Path, zipped: bool
) -> None:
    from recmind_dist.checkpoint.shards import read_rows, read_shard

    path = tmp_path / "rows-00000.safetensors"
    path.write_bytes(torch_file(mark, zipped))
    for read in (lambda: read_shard(path), lambda: read_rows([(path, 0, 4)], 0, 4)):
        with pytest.raises(CheckpointError) as error:
            read()
        one_sentence(error, "not a safetensors file")


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 100) + b"{" * 100,
        struct.pack("<Q", 66)
        + b'{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}}'[:66],
        struct.pack("<Q", 3000) + b'{"a":' + b"[" * 2995,
    ],
    ids=[
        "a header of 8 EiB",
        "a header that is none",
        "a shape beyond the file",
        "a header nested deep",
    ],
)
def test_safetensors_that_lie(tmp_path: Path, header: bytes) -> None:
    from recmind_dist.checkpoint.shards import read_shard

    (tmp_path / "rows.safetensors").write_bytes(header)
    with pytest.raises(CheckpointError) as error:
        read_shard(tmp_path / "rows.safetensors")
    one_sentence(error, "not a safetensors file")


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A directory with a manifest; outside it a file with the manifest's sha256 of `a`."""
    home = tmp_path / "toy"
    home.mkdir()
    (home / "a").write_bytes(b"a")
    (tmp_path / "secret").write_bytes(b"a")
    write_manifest(home, "toy", 1, {})
    return home


@pytest.mark.parametrize(
    "name", ["../secret", "link", "folder/secret", "{home}/../secret", "a/../../secret"]
)
def test_a_manifest_that_leads_out_of_its_directory(toy: Path, name: str) -> None:
    (toy / "link").symlink_to(toy.parent / "secret")
    (toy / "folder").symlink_to(toy.parent)
    manifest = read_manifest(toy, "toy", 1)
    manifest["files"] = {name.format(home=toy): manifest["files"]["a"]}
    with pytest.raises(StoreError) as error:
        verify_manifest(toy, manifest)
    one_sentence(error, "outside the directory: refused")


def test_a_manifest_that_is_a_link(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "manifest.json").symlink_to(toy / "manifest.json")
    with pytest.raises(StoreError) as error:
        read_manifest(tmp_path / "copy", "toy", 1)
    one_sentence(error, "a symbolic link: refused")


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 500 + b"]" * 500,
        b"9" * 100_000,
        b'{"kind": "\\ud800"}',
        b"\x80\x02}",
        b"\xff\xfe",
        b" " * ((16 << 20) + 1),
        b"",
    ],
    ids=[
        "lists",
        "objects",
        "closed",
        "digits",
        "surrogate",
        "pickle",
        "utf-16",
        "too long",
        "empty",
    ],
)
def test_json_that_is_none_of_ours(toy: Path, data: bytes) -> None:
    (toy / "manifest.json").write_bytes(data)
    with pytest.raises(StoreError) as error:
        read_manifest(toy, "toy", 1)
    one_sentence(error, "manifest.json: ")


def ingest(path: Path, home: Path, **more: Any) -> Path:
    words = {
        "name": "x",
        "interactions": {"path": path, "format": more.pop("format", "auto")},
        **more,
    }
    return ingest_dataset(DatasetSettings.model_validate(words), home / "cache")


def refused(path: Path, home: Path, **more: Any) -> str:
    """The sentence with which a log is refused; nothing is left behind."""
    with pytest.raises(DataError) as error:
        ingest(path, home, **more)
    one_sentence(error, str(path))
    assert not (home / "cache").exists()
    return str(error.value)


def test_rows_of_json_nested_a_hundred_thousand_deep(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"user": 1, "item": 1}\n{"user": 1, "item": ' + b"[" * 100_000 + b"\n")
    assert ":2: JSON nested too deep" in refused(path, tmp_path)


def test_a_line_without_end_and_a_table_of_endless_columns(tmp_path: Path) -> None:
    (tmp_path / "long.csv").write_bytes(b"user,item\n1,2\n" + b"x" * ((1 << 24) + 1))
    assert "long.csv:3: longer than" in refused(tmp_path / "long.csv", tmp_path)
    (tmp_path / "wide.csv").write_bytes(
        b"user,item" + b"".join(b",c%d" % n for n in range(50_000)) + b"\n"
    )
    assert "more than 4096 columns" in refused(tmp_path / "wide.csv", tmp_path)
    (tmp_path / "log.csv").write_bytes(b"user,item\nu,i\n")
    keys = "".join(json.dumps({"id": "i", f"k{n}": n}) + "\n" for n in range(20_000))
    (tmp_path / "items.jsonl").write_text(keys)
    with pytest.raises(DataError, match="more than 512 columns"):
        ingest(tmp_path / "log.csv", tmp_path, items=tmp_path / "items.jsonl")


def parquet(path: Path, **columns: Any) -> Path:
    arrow_parquet.write_table(pa.table(columns), path)
    return path


def test_parquet_of_types_that_are_no_rows(tmp_path: Path) -> None:
    ids = pa.array(["a", "b"])
    for odd in (
        pa.array([b"\xff", b""]),
        pa.array([{"a": 1}, None]),
        pa.array([[["a"]], None]),
        pa.array([1, 2], pa.duration("s")),
        pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int32())),
        pa.array(["1.5", "2"]).cast(pa.decimal256(50, 2)),
        pa.array([["a"], None]),
    ):
        for role in ("user", "item", "time"):
            path = parquet(tmp_path / "log.parquet", **({"user": ids, "item": ids} | {role: odd}))
            assert "holds" in refused(path, tmp_path)


def test_parquet_that_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = pa.array(["a", "b"])
    offsets = pa.py_buffer(np.array([0, 1, 2], np.int32))
    latin = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"\xe9\xff")])
    assert "Invalid UTF8" in refused(
        parquet(tmp_path / "latin.parquet", user=latin, item=ids), tmp_path
    )
    assert "reserved" in refused(
        parquet(tmp_path / "line.parquet", user=ids, item=ids, __line=ids), tmp_path
    )
    twice = pa.Table.from_arrays([ids, ids, ids], ["user", "user", "item"])
    arrow_parquet.write_table(twice, tmp_path / "twice.parquet")
    assert "stands twice" in refused(tmp_path / "twice.parquet", tmp_path)
    data = bytearray(parquet(tmp_path / "short.parquet", user=ids, item=ids).read_bytes())
    (tmp_path / "short.parquet").write_bytes(data[:40] + data[-8:])
    assert "cannot be read as Parquet" in refused(tmp_path / "short.parquet", tmp_path)
    monkeypatch.setattr(objects, "MAX_BYTES", 10 << 20)
    bomb = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(1_000_000, np.int32)), ["u" * 100]
    ).cast(pa.string())
    path = parquet(tmp_path / "bomb.parquet", user=bomb, item=bomb)
    assert path.stat().st_size < 100_000, "a few bytes stand for 200 MB"
    assert "bytes of memory: split the file" in refused(path, tmp_path)


MEMBER = (Member("in/file", "file", 1000),)


def test_archives_that_are_bombs_or_no_zip(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("../../code-was-run")
        info.size = 50 << 20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / f"{method}.zip", "w", method) as zipped:
            zipped.writestr("in/file", bytes(50 << 20))
    names = ["a.tar.gz", *(f"{method}.zip" for method in (8, 12, 14))]
    sentences = [
        "not a sound zip",
        "larger than 1000 bytes",
        "packed in an unusual way",
        "packed in an unusual way",
    ]
    for name, sentence in zip(names, sentences, strict=True):
        with pytest.raises(DataError) as error:
            take_members(tmp_path / name, MEMBER, out)
        one_sentence(error, sentence)
    assert [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and path.suffix not in (".zip", ".gz")
    ] == []


def test_an_archive_whose_directory_fills_the_memory(tmp_path: Path) -> None:
    """The last record says how long the directory is; ZIP64's says it elsewhere and has the highest
    number here.
    """
    for length in (100 << 20, 2**32 - 1):
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9999, 9999, length, 0, 0)
        (tmp_path / "a.zip").write_bytes(bytes(TAIL) + end)
        with pytest.raises(DataError) as error:
            take_members(tmp_path / "a.zip", MEMBER, tmp_path / "out")
        one_sentence(error, "its directory is")


def test_a_gguf_file_of_the_pinned_length_or_of_a_terabyte_is_still_not_the_pinned_one(
    tmp_path: Path,
) -> None:
    for size in (SMOLLM2_GGUF_BYTES, 1 << 40):
        with (tmp_path / "x.gguf").open("wb") as file:
            file.write(b"GGUF")
            file.truncate(size)  # sparse: takes no room
        with pytest.raises(TextError) as error:
            convert_smollm2(tmp_path / "x.gguf", tmp_path / "out")
        one_sentence(error, "no other GGUF file is read")
        assert not (tmp_path / "out").exists()


def limited(code: str, home: Path) -> str:
    """Runs a program with `MEMORY` bytes of address space beyond its imports. Returns what it
    prints last.
    """
    program = Program(run_limited, code, home)
    assert program.wait() == 0, program.stderr[-2000:]
    return program.stdout.strip()


def run_limited(code: str, home: Path) -> None:
    """For `limited`."""
    from recmind_dist.graph import Graph
    from recmind_dist.text.store import TextStore

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    try:
        exec(code, {"numpy": np, "home": home, "Graph": Graph, "TextStore": TextStore})
    except RecmindError as error:
        print("refused:", error)


def test_a_text_store_that_declares_more_rows_than_there_are(tmp_path: Path) -> None:
    from recmind_dist.text.store import TextStore

    store = TextStore.create(tmp_path / "text", {}, 8, {"items": 64, "users": 64}, 64, 64)
    for side in ("items", "users"):
        store.write_shard(side, 0, np.zeros((64, 8), np.float16), "k")
    array = tmp_path / "text" / "items" / "zarr.json"
    meta = json.loads(array.read_text())
    meta["shape"] = [10**12, 8]
    array.write_text(json.dumps(meta))
    assert "refused:" in limited("TextStore.open(home / 'text').read_all('items')", tmp_path)


def test_a_numpy_file_of_objects(tmp_path: Path) -> None:
    from recmind_dist.graph.store import map_array

    touch = tmp_path / "code-was-run"
    np.save(tmp_path / "objects.npy", np.array([Touch(touch)], dtype=object), allow_pickle=True)
    with pytest.raises(StoreError) as error:
        map_array(tmp_path / "objects.npy", np.int64, 1)
    one_sentence(error, "objects.npy: cannot be read")
    assert not touch.exists()


def test_a_numpy_file_of_huge_shape(tmp_path: Path) -> None:
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    (tmp_path / "huge.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8)
    )
    said = limited(
        (
            "from recmind_dist.graph.store import map_array; map_array(home / 'huge.npy', "
            "numpy.int64, 10**12)"
        ),
        tmp_path,
    )
    assert said.startswith("refused:")


def test_memory_limits_are_what_the_helper_says(tmp_path: Path) -> None:
    """The helper above would prove nothing if the limit did not hold."""
    with pytest.raises(AssertionError, match="MemoryError"):
        limited(f"numpy.ones(2 * {MEMORY}, numpy.uint8)", tmp_path)
