"""Any bytes or JSON as a file that a run has written: it is read as it was written, or refused in
one sentence.
"""

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recmind_dist.checkpoint import CheckpointSettings, attempt_name, find_checkpoint
from recmind_dist.checkpoint.layout import COMMIT, DENSE, MANIFEST
from recmind_dist.checkpoint.saver import Checkpointer
from recmind_dist.doctor.checkpoints import audit_checkpoints
from recmind_dist.doctor.examine import examine
from recmind_dist.doctor.graphs import audit_graph
from recmind_dist.doctor.text_stores import audit_text_store
from recmind_dist.errors import ConfigError, RecmindError
from recmind_dist.graph import Graph
from recmind_dist.report import MetricsLog, RunDirectory, read_metrics
from recmind_dist.report.metrics_log import _with_crc
from recmind_dist.report.run_directory import SCHEMA
from recmind_dist.storage import check_seal, content_key, write_sealed
from recmind_dist.storage.manifest import SELF
from recmind_dist.text import LoraSettings, Texts, TextStore, Whitening, load_adapter, save_adapter
from recmind_dist.training.finished_run import read_inputs, read_run
from recmind_dist.training.run_stores import RunStores
from tests.graphs import make_graph, random_pairs
from tests.training_runs import config_of

quick = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
few = settings(quick, max_examples=25)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(
        ["../x", "/etc/passwd", "a\0", "\ud800", "x" * 300, 10**18, -(2**63), 2**64, "0" * 64]
    ),
)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)


def may_refuse(read: Callable[[], Any]) -> Any:
    """What `read` gives, or None where it refuses in one sentence. Anything else that is raised is
    a defect.
    """
    try:
        return read()
    except RecmindError as error:
        must_be_a_sentence(error)
        return None


def must_be_a_sentence(error: RecmindError) -> None:
    assert "\n" not in str(error) or isinstance(error, ConfigError), (
        "of settings, a line for each fault"
    )
    assert len(str(error)) < 2000


def spoilt(value: Any, data: st.DataObject) -> Any:
    """A document with one of its values, at any depth, exchanged, taken away or put under another
    name.
    """
    if isinstance(value, dict) and value and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(value)))
        way = data.draw(st.sampled_from(["deeper", "gone", "renamed"]))
        rest = {name: inner for name, inner in value.items() if name != key}
        if way == "gone":
            return rest
        if way == "renamed":
            return {**rest, data.draw(st.text(max_size=4)): value[key]}
        return {**value, key: spoilt(value[key], data)}
    if isinstance(value, list) and value and data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(value) - 1))
        return [*value[:place], spoilt(value[place], data), *value[place + 1 :]]
    return data.draw(JSON)


def with_own_hash(manifest: Any) -> Any:
    """The manifest with the hash that fits its content, which alone then tells what is wrong."""
    if not isinstance(manifest, dict):
        return manifest
    content = {key: value for key, value in manifest.items() if key != SELF}
    try:
        return {**content, SELF: content_key(content)}
    except ValueError:  # NaN, or half a surrogate pair
        return manifest


BODIES = st.one_of(
    st.binary(max_size=30),
    st.builds(lambda value: json.dumps(value).encode(), JSON),
    st.sampled_from(
        [
            b"",
            b"{}",
            b"[]",
            b"1",
            b"[" * 5000,
            b'{"kind": "step", "crc32": "00000000"}',
            b'{"kind": 1}',
            b"\xff",
        ]
    ),
    st.builds(
        lambda digits: b'{"time": 1, "kind": "step", "loss": ' + digits * b"9" + b"}",
        st.integers(1, 5000),
    ),
)
LINES = BODIES | BODIES.map(_with_crc)


@quick
@given(lines=st.lists(LINES, max_size=6), torn=st.booleans())
def test_a_log_of_any_lines_gives_its_own_records_back(
    tmp_path: Path, lines: list[bytes], torn: bool
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join(lines) + (b"" if torn else b"\n"))
    with MetricsLog(path) as log:
        log.log("step", loss=0.5, step=7)
    found = list(read_metrics(path))
    assert all(isinstance(record, dict) for record in found)
    assert {"kind": "step", "loss": 0.5, "step": 7}.items() <= found[-1].items(), (
        "the line after a torn one is whole"
    )
    assert len(found) <= 1 + sum(len(line.split(b"\n")) for line in lines)
    may_refuse(lambda: examine(tmp_path))


@quick
@given(
    sums=st.lists(
        st.binary(max_size=20) | st.sampled_from([b"0" * 64 + b"  a", b"0" * 64 + b"  ../a"]),
        max_size=4,
    )
)
def test_any_list_of_hashes_verifies_nothing_that_is_not_there(
    tmp_path: Path, sums: list[bytes]
) -> None:
    path = tmp_path / "a"
    write_sealed(path, b"content")
    own = (tmp_path / "SHA256SUMS").read_bytes()
    path.write_bytes(b"changed")
    (tmp_path / "SHA256SUMS").write_bytes(own + b"\n".join(sums))
    with pytest.raises(RecmindError):
        check_seal(path, "")
    may_refuse(lambda: examine(tmp_path))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with one file of each kind."""
    home = tmp_path / "run"
    config = config_of(tmp_path, "run")
    directory = RunDirectory(home)
    directory.create()
    directory.write_config(config.model_dump(mode="json"))
    inputs = RunStores(
        tmp_path / "graph", tmp_path / "text", home / "whitening.safetensors", home / "texts.arrow"
    )
    (home / "inputs.json").write_text(json.dumps(inputs.to_json()))
    Texts(["a", None], ["b"]).save(home / "texts.arrow")
    save_adapter(home / "adapter", {"lora_A": torch.ones(2, 3)}, LoraSettings())
    results = {"dataset": "x", "variant": "recmind", "seed": 0, "commit": None, "split": "test"}
    directory.write_results(
        {
            **results,
            "metrics": {"recall@20": 0.5},
            "strata": {name: {"users": 1} for name in ("0", "1-3", "cold")},
            "gate": [],
        }
    )
    with Checkpointer(directory.checkpoints, 0, 1, (0, 3), 3, CheckpointSettings()) as one:
        info = {
            "config": config.model_dump(mode="json"),
            "inputs": inputs.to_json(),
            "cursor": {"phase": "done"},
        }
        one.save(
            attempt_name(1, "abcdefgh"), {"weight": torch.ones(3, 2)}, {"p": torch.ones(1)}, info
        )
    return home


READERS: dict[str, Callable[[Path], Any]] = {
    "inputs.json": lambda home: read_inputs(RunDirectory(home)),
    "results.json": lambda home: RunDirectory(home).read_results(),
    "config.yaml": lambda home: read_run(home),
    "adapter/manifest.json": lambda home: load_adapter(home / "adapter"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_run_file_of_any_json_is_refused_in_a_sentence(run: Path, name: str) -> None:
    (run / "SHA256SUMS").unlink()  # so that nothing but the content tells
    path = run / name
    whole = path.read_bytes()
    settings = {"schema": SCHEMA, **read_run(run)[1].model_dump(mode="json")}
    document = settings if name == "config.yaml" else json.loads(whole)

    @few
    @given(data=st.data(), raw=st.none() | st.binary(max_size=40))
    def check(data: st.DataObject, raw: bytes | None) -> None:
        written = spoilt(document, data) if raw is None else None
        if name == "adapter/manifest.json":
            written = with_own_hash(written)
        path.write_bytes(json.dumps(written).encode() if raw is None else raw)
        try:
            may_refuse(lambda: READERS[name](run))
            assert may_refuse(lambda: examine(run)) is not None, (
                "the doctor reads on, whatever it meets"
            )
        finally:
            path.write_bytes(whole)

    check()


@few
@given(places=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=4))
def test_a_file_of_texts_with_other_bytes_is_read_or_refused(
    run: Path, places: list[tuple[int, int]]
) -> None:
    path = run / "texts.arrow"
    sums, whole = (run / "SHA256SUMS").read_bytes(), path.read_bytes()
    (run / "SHA256SUMS").unlink()  # so that nothing but the content tells
    changed = bytearray(whole)
    for place, value in places:
        changed[place % len(changed)] = value
    path.write_bytes(bytes(changed))
    try:
        texts = may_refuse(lambda: Texts.load(path))
        if texts is not None:
            assert len(texts.key) == 64
        assert may_refuse(lambda: examine(run)) is not None
    finally:
        path.write_bytes(whole)
        (run / "SHA256SUMS").write_bytes(sums)


@few
@given(data=st.data())
def test_a_checkpoint_of_any_manifest_is_read_or_refused(run: Path, data: st.DataObject) -> None:
    directory = run / "checkpoints"
    [checkpoint] = directory.iterdir()
    kept = {name: (checkpoint / name).read_bytes() for name in (MANIFEST, COMMIT)}
    changed = json.dumps(spoilt(json.loads(kept[MANIFEST]), data)).encode()
    (checkpoint / MANIFEST).write_bytes(changed)
    # signed by whoever changed it
    (checkpoint / COMMIT).write_text(hashlib.sha256(changed).hexdigest())
    try:
        found = may_refuse(lambda: find_checkpoint(directory))
        if found is not None:
            assert (found.rows(0, 3)["weight"] == 1).all()
        audit_checkpoints(directory)
        assert may_refuse(lambda: examine(run)) is not None
    finally:
        for name, whole in kept.items():
            (checkpoint / name).write_bytes(whole)


HEADERS = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda size, body: struct.pack("<Q", size) + body,
        st.integers(0, 2**64 - 1),
        st.binary(max_size=60),
    ),
    st.builds(
        lambda v: (b := json.dumps(v).encode()) and struct.pack("<Q", len(b)) + b + bytes(64), JSON
    ),
    st.builds(
        lambda dtype, shape, ends: (
            (
                b := json.dumps(
                    {"weight": {"dtype": dtype, "shape": shape, "data_offsets": ends}}
                ).encode()
            )
            and struct.pack("<Q", len(b)) + b + bytes(64)
        ),
        st.sampled_from(["F32", "F16", "I64", "F8_E4M3", "X"]),
        st.lists(st.integers(0, 2**40) | st.just(4), max_size=3),
        st.lists(st.integers(0, 64), min_size=1, max_size=3),
    ),
)


@quick
@given(raw=HEADERS)
def test_any_bytes_as_tensors_are_refused_in_a_sentence(tmp_path: Path, raw: bytes) -> None:
    from recmind_dist.checkpoint.shards import read_rows, read_shard, shard_layout

    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    tensors, layout = may_refuse(lambda: read_shard(path)), may_refuse(lambda: shard_layout(path))
    # what can be read fills the file to its end
    if tensors is not None:
        assert sum(tensor.nbytes for tensor in tensors.values()) == len(raw) - 8 - size_of(raw)
        assert {name: list(tensor.shape) for name, tensor in tensors.items()} == {
            name: shape for name, (_, shape) in layout.items()
        }
    assert may_refuse(lambda: Whitening.load(path)) is None, "no mean and no matrix"
    rows = may_refuse(lambda: read_rows([(path, 0, 4)], 1, 3)) or {}
    assert all(len(part) == 2 for part in rows.values())


def size_of(raw: bytes) -> int:
    """Bytes of the header."""
    return int(struct.unpack("<Q", raw[:8])[0])


@few
@given(raw=HEADERS)
def test_a_checkpoint_signed_over_any_tensors_is_read_or_refused(run: Path, raw: bytes) -> None:
    [checkpoint] = (run / "checkpoints").iterdir()
    for name in (DENSE, "rows-00000.safetensors"):
        kept = {file: (checkpoint / file).read_bytes() for file in (name, MANIFEST, COMMIT)}
        manifest = json.loads(kept[MANIFEST])
        manifest["files"][name] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        (checkpoint / name).write_bytes(raw)
        (checkpoint / MANIFEST).write_bytes(changed := json.dumps(manifest).encode())
        (checkpoint / COMMIT).write_text(hashlib.sha256(changed).hexdigest())
        try:
            found = may_refuse(lambda: find_checkpoint(run / "checkpoints"))
            if found is not None and name == DENSE:
                may_refuse(found.dense)
                assert (found.rows(0, 3)["weight"] == 1).all(), "the other file is as it was"
            elif found is not None:
                rows = may_refuse(lambda: found.rows(0, 3)) or {}  # noqa: B023 (called at once)
                assert all(len(part) == 3 for part in rows.values())
        finally:
            for file, whole in kept.items():
                (checkpoint / file).write_bytes(whole)


@pytest.fixture
def store(tmp_path: Path) -> TextStore:
    made = TextStore.create(
        tmp_path / "text", {"made": "here"}, 4, {"users": 20, "items": 10}, 8, 4
    )
    for side in ("items", "users"):
        for shard in range(made.num_shards(side)):
            start, stop = made.shard_range(side, shard)
            made.write_shard(side, shard, np.ones((stop - start, 4), np.float16), "k")
    return made


@pytest.mark.parametrize("name", ["store.json", "ledger/users-00001.json", "items/zarr.json"])
def test_a_text_store_of_any_description_is_refused_or_gives_what_was_written(
    store: TextStore, name: str
) -> None:
    path = store.path / name
    whole = path.read_bytes()

    def read() -> Any:
        found = TextStore.open(store.path)
        return found.content_key(), found.read_all("users"), found.read_all("items")

    @few
    @given(data=st.data(), raw=st.none() | st.binary(max_size=40))
    def check(data: st.DataObject, raw: bytes | None) -> None:
        path.write_bytes(
            json.dumps(spoilt(json.loads(whole), data)).encode() if raw is None else raw
        )
        try:
            given_back = may_refuse(read)
            if given_back is not None:
                assert all((rows == 1).all() for rows in given_back[1:])
            may_refuse(lambda: audit_text_store(store.path))
        finally:
            path.write_bytes(whole)

    check()


def test_a_graph_of_any_manifest_is_refused_or_opened(tmp_path: Path) -> None:
    path = make_graph(tmp_path, random_pairs(8, 6, 20), 8, 6, valid=[(7, 5)], num_parts=2).path
    whole = (path / "manifest.json").read_bytes()
    words = json.loads(whole)
    graph = Graph.open(path)
    counts = (graph.num_users, graph.num_items, graph.num_edges)

    @few
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        (path / "manifest.json").write_text(json.dumps(with_own_hash(spoilt(words, data))))
        opened = may_refuse(lambda: audit_graph(path))
        if opened is not None:
            assert (opened.num_users, opened.num_items, opened.num_edges) == counts

    check()
