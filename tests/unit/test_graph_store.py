"""The graph on disk: both directions agree, parts are a permutation, damage is named."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from recmind_dist.errors import DataError, StoreError
from recmind_dist.faults import arm
from recmind_dist.graph import Graph, GraphSettings, prepare_graph, row_bounds
from recmind_dist.graph.csr import both_directions, edge_order
from recmind_dist.graph.fennel import assign_parts
from recmind_dist.graph.ownership import by_owner
from recmind_dist.graph.partition import by_hash, by_metis, by_range, judge
from recmind_dist.ingest import DatasetSettings, SyntheticSettings, ingest_dataset, synthesize
from recmind_dist.storage import content_key
from tests.processes import Program

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("synthetic")
    made = synthesize(
        SyntheticSettings(num_users=300, num_items=120, num_edges=6000, seed=4), home / "files"
    )
    names = {side: made / f"{side}.parquet" for side in ("interactions", "items", "users")}
    return ingest_dataset(DatasetSettings(name="synthetic", **names), home / "cache")


def toy(tmp_path: Path, log: str, graph: dict[str, Any] | None = None, **dataset: Any) -> Graph:
    path = tmp_path / dataset.pop("file", "log.csv")
    path.write_text(log)
    made = ingest_dataset(
        DatasetSettings(name="toy", interactions=path, **dataset), tmp_path / "cache"
    )
    return Graph.open(
        prepare_graph(made, GraphSettings(**(graph or {})), tmp_path / "cache"), verify=True
    )


def edges_of(graph: Graph) -> set[tuple[int, int]]:
    owner = np.repeat(np.arange(graph.num_users), graph.degree[: graph.num_users])
    return set(zip(owner.tolist(), graph.indices[: graph.num_edges].tolist(), strict=True))


@settings(max_examples=100, deadline=None)
@given(pairs=st.sets(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=1))
def test_both_directions_hold_the_same_edges_in_ascending_rows(pairs: set[tuple[int, int]]) -> None:
    user, item = (np.array(side, dtype=np.int64) for side in zip(*pairs, strict=True))
    order = edge_order(user, item, 7, 10)
    indptr, indices = both_directions(user[order], item[order], 7, 10)
    rows = [indices[indptr[n] : indptr[n + 1]] for n in range(17)]
    assert {(u, int(v) - 7) for u in range(7) for v in rows[u]} == pairs
    assert {(int(u), i) for i in range(10) for u in rows[7 + i]} == pairs
    assert all((np.diff(row) > 0).all() for row in rows)
    assert len(indices) == 2 * len(pairs)


def test_a_prepared_graph_is_the_log_without_what_is_held_out(
    dataset: Path, tmp_path: Path
) -> None:
    graph = Graph.open(prepare_graph(dataset, GraphSettings(), tmp_path), verify=True)
    log = pl.read_parquet(dataset / "interactions.parquet")
    user = {name: k for k, name in enumerate(graph.user_ids)}
    item = {name: k + graph.num_users for k, name in enumerate(graph.item_ids)}
    logged = {(user[u], item[i]) for u, i in log.select("user", "item").iter_rows()}
    held = set()
    for split in ("valid", "test"):
        out = graph.held_out(split)
        held |= {
            (u, int(i))
            for u in range(graph.num_users)
            for i in out.indices[out.indptr[u] : out.indptr[u + 1]]
        }
    assert edges_of(graph) | held == logged
    assert not edges_of(graph) & held
    assert graph.num_edges + len(held) == len(logged)
    assert graph.degree.sum() == 2 * graph.num_edges
    assert (graph.indices[: graph.num_edges] >= graph.num_users).all()
    assert (graph.indices[graph.num_edges :] < graph.num_users).all()


def test_time_rank_is_the_order_of_the_training_edges(tmp_path: Path) -> None:
    graph = toy(tmp_path, "user,item,time\na,z,4\na,y,1\na,x,3\na,w,8\na,v,9\nb,z,2\nb,y,1\n")
    names = [graph.item_ids[int(i) - 2] for i in graph.indices[: graph.num_edges]]
    assert list(zip(names, graph.time_rank.tolist(), strict=True)) == [
        ("x", 1),
        ("y", 0),
        ("z", 2),
        ("y", 0),
        ("z", 1),
    ]
    assert [graph.item_ids[int(graph.held_out(s).indices[0]) - 2] for s in ("valid", "test")] == [
        "w",
        "v",
    ]
    assert graph.manifest["users_without_test"] == 1, "b has two interactions: both are trained on"


def test_numbering_does_not_depend_on_the_order_of_lines(tmp_path: Path) -> None:
    rows = ["10,b,1", "9,a,2", "9,10,3", "x,9,4", "9,b,5", "10,a,6", "10,9,7"]
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    one = toy(tmp_path / "1", "user,item,time\n" + "\n".join(rows) + "\n")
    two = toy(tmp_path / "2", "user,item,time\n" + "\n".join(reversed(rows)) + "\n")
    assert one.user_ids.to_list() == ["9", "10", "x"]
    assert one.item_ids.to_list() == ["9", "10", "a", "b"]
    for name in ("indptr", "indices", "time_rank", "row_of_node"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


def test_held_out_items_that_training_never_saw_keep_their_node(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_text("1 new\n7 a\n")
    graph = toy(
        tmp_path, "1 a b\n2 a\n", {"split": "given"}, file="train.txt", test=tmp_path / "test.txt"
    )
    assert graph.item_ids.to_list() == ["a", "b", "new"]
    assert graph.user_ids.to_list() == ["1", "2", "7"]
    assert graph.degree.tolist() == [2, 1, 0, 2, 1, 0]
    assert graph.held_out("valid").num_edges == 0
    assert graph.held_out("test").indices.tolist() == [5, 3]


def test_items_found_only_in_their_text_file_are_nodes_of_degree_0_with_text(
    tmp_path: Path,
) -> None:
    (tmp_path / "items.csv").write_text("id,title\nx,ex\nc,cold\n")
    graph = toy(tmp_path, "user,item\n1,x\n1,y\n", items=tmp_path / "items.csv")
    assert graph.items_frame().rows() == [("c", "cold"), ("x", "ex"), ("y", None)]
    assert graph.degree.tolist() == [2, 0, 1, 1]


@pytest.mark.parametrize("partition", ["hash", "range", "fennel", "metis"])
@pytest.mark.parametrize("num_parts", [1, 2, 5])
def test_a_partition_is_a_permutation_in_contiguous_parts(
    dataset: Path, tmp_path: Path, partition: str, num_parts: int
) -> None:
    chosen = GraphSettings.model_validate({"partition": partition, "num_parts": num_parts})
    graph = Graph.open(prepare_graph(dataset, chosen, tmp_path))
    assert sorted(graph.row_of_node) == list(range(graph.num_nodes))
    assert len(graph.part_rows) == num_parts + 1
    assert (graph.part_rows[0], graph.part_rows[-1]) == (0, graph.num_nodes)
    weight = np.zeros(graph.num_nodes, np.int64)
    weight[graph.row_of_node] = graph.degree + 1
    loads = np.add.reduceat(weight, graph.part_rows[:-1])
    assert loads.max() < 1.35 * loads.mean(), f"degrees lie unevenly: {loads}"
    again = Graph.open(prepare_graph(dataset, chosen, tmp_path / "again"))
    assert np.array_equal(graph.row_of_node, again.row_of_node)


def test_metis_cuts_fewer_edges_than_hash_on_two_islands() -> None:
    ring = [(u, i) for u in range(40) for i in range(40) if u % 2 == i % 2 and (u + i) % 3]
    user, item = (np.array(side, dtype=np.int64) for side in zip(*ring, strict=True))
    order = edge_order(user, item, 40, 40)
    indptr, indices = both_directions(user[order], item[order], 40, 40)

    def cut(rows: np.ndarray, bounds: np.ndarray) -> int:
        part = np.searchsorted(bounds, rows, side="right")
        return int((part[np.repeat(np.arange(80), np.diff(indptr))] != part[indices]).sum())

    assert cut(*by_metis(indptr, indices, 2, seed=0)) == 0 < cut(*by_hash(80, 2, seed=0))


def test_a_hub_heavier_than_a_part_leaves_no_part_empty() -> None:
    for degree in ([1000, 0, 0, 0], [0, 0, 0, 1000], [0, 1000, 0, 0]):
        _, bounds = by_range(np.array(degree), 4)
        assert bounds.tolist() == [0, 1, 2, 3, 4]


def test_row_bounds_follow_the_parts_or_cut_evenly(dataset: Path, tmp_path: Path) -> None:
    graph = Graph.open(
        prepare_graph(dataset, GraphSettings(partition="range", num_parts=3), tmp_path)
    )
    assert row_bounds(graph, 3).tolist() == graph.part_rows.tolist()
    even = row_bounds(graph, 4)
    assert (even[0], even[-1]) == (0, graph.num_nodes)
    assert np.ptp(np.diff(even)) <= 1
    with pytest.raises(DataError, match="more ranks than nodes"):
        row_bounds(graph, graph.num_nodes + 1)


def test_test_arrays_are_opened_only_on_request(dataset: Path, tmp_path: Path) -> None:
    path = prepare_graph(dataset, GraphSettings(), tmp_path)
    (path / "test_indices.npy").unlink()
    graph = Graph.open(path)
    assert graph.held_out("valid").num_edges > 0
    with pytest.raises(StoreError, match=r"test_indices\.npy: cannot be read"):
        graph.held_out("test")
    with pytest.raises(StoreError, match=r"test_indices\.npy: missing"):
        Graph.open(path, verify=True)


def test_damage_is_named(dataset: Path, tmp_path: Path) -> None:
    path = prepare_graph(dataset, GraphSettings(), tmp_path)
    flipped = bytearray((path / "indices.npy").read_bytes())
    flipped[-1] ^= 1
    (path / "indices.npy").write_bytes(flipped)
    Graph.open(path)
    with pytest.raises(StoreError, match=r"indices\.npy: sha256 differs"):
        Graph.open(path, verify=True)
    np.save(path / "indptr.npy", np.zeros(3, np.int64))
    with pytest.raises(StoreError, match=r"indptr\.npy: int64 \[3\] where the manifest says"):
        Graph.open(path)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"num_users": "many"}))
    with pytest.raises(StoreError, match="differs from its own hash"):
        Graph.open(path)
    changed = {k: v for k, v in manifest.items() if k != "manifest_sha256"} | {"num_users": "many"}
    sealed = {**changed, "manifest_sha256": content_key(changed)}
    (path / "manifest.json").write_text(json.dumps(sealed))
    with pytest.raises(StoreError, match="num_users is 'many'"):
        Graph.open(path)
    with pytest.raises(StoreError, match="not a complete graph directory"):
        Graph.open(tmp_path / "nowhere")


def test_users_are_found_by_their_own_ids(tmp_path: Path) -> None:
    graph = toy(tmp_path, "user,item\n30,x\n4,x\n30,y\n")
    assert (graph.user_index("30"), graph.user_index(4)) == (1, 0)
    with pytest.raises(DataError, match="user '5' is not in toy: its 2 users have ids like '4'"):
        graph.user_index("5")


def test_what_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    same_time = "user,item,time\n1,x,5\n2,y,5\n"
    with pytest.raises(DataError, match=r"graph\.split global-time leaves no training interaction"):
        toy(tmp_path, same_time, {"split": "global-time", "test_share": 0.5})
    with pytest.raises(DataError, match=r"graph\.num_parts = 9 is more parts than the 4 nodes"):
        toy(tmp_path, same_time, {"num_parts": 9})
    with pytest.raises(DataError, match=r"set dataset\.test"):
        toy(tmp_path, same_time, {"split": "given"})
    (tmp_path / "test.csv").write_text("user,item,time\n1,y,6\n")
    with pytest.raises(DataError, match=r"dataset\.test gives a split"):
        toy(tmp_path, same_time, test=tmp_path / "test.csv")


@pytest.mark.parametrize(
    "wrong",
    [
        {"split": "ratio"},
        {"split": "ratio", "test_share": 0.6, "valid_share": 0.4},
        {"test_share": 0.1},
    ],
)
def test_shares_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"graph\..*_share"):
        GraphSettings.model_validate(wrong)


def test_gowalla_keeps_its_published_split(tmp_path: Path) -> None:
    folder = SHARED / "gowalla"
    if not folder.is_dir():
        pytest.skip(
            "../shared/data/gowalla is not here: the published split is not part of the repository"
        )
    chosen = DatasetSettings(
        name="gowalla", interactions=folder / "train.txt", test=folder / "test.txt"
    )
    made = ingest_dataset(chosen, tmp_path)
    graph = Graph.open(prepare_graph(made, GraphSettings(split="given"), tmp_path))
    assert (graph.num_users, graph.num_items, graph.num_edges) == (29_858, 40_981, 810_128)
    assert (graph.held_out("valid").num_edges, graph.held_out("test").num_edges) == (0, 217_242)
    share = Graph.open(prepare_graph(made, GraphSettings(split="given", valid_share=0.1), tmp_path))
    assert np.array_equal(share.held_out("test").indices, graph.held_out("test").indices)
    assert share.num_edges + share.held_out("valid").num_edges == graph.num_edges


def test_fennel_cuts_less_than_hash_and_keeps_to_its_cap(tmp_path: Path) -> None:
    made = synthesize(
        SyntheticSettings(num_users=900, num_items=400, num_edges=20_000, seed=2),
        tmp_path / "files",
    )
    dataset = ingest_dataset(
        DatasetSettings(name="planted", interactions=made / "interactions.parquet"), tmp_path
    )
    found = {}
    for partition in ("hash", "fennel"):
        settings = GraphSettings.model_validate({"partition": partition, "num_parts": 4})
        graph = Graph.open(prepare_graph(dataset, settings, tmp_path))
        found[partition] = judge(graph, graph.part_rows)
        again = assign_parts(graph.indptr, graph.indices, 4, 0)
        assert np.array_equal(again, assign_parts(graph.indptr, graph.indices, 4, 0))
    assert found["hash"].cut == pytest.approx(0.75, abs=0.03)
    assert found["fennel"].cut < 0.6  # eight communities of a loyalty of .85 are planted
    assert found["fennel"].edges < 1.1


def test_a_hub_heavier_than_a_part_has_one_to_itself() -> None:
    """One item of nine hundred users, and thirty pairs apart from it."""
    user = np.r_[np.arange(900), 900 + np.arange(30)]
    item = np.r_[np.zeros(900, np.int64), 1 + np.arange(30)]
    order = edge_order(user, item, 930, 31)
    indptr, indices = both_directions(user[order], item[order], 930, 31)
    part = assign_parts(indptr, indices, 4, 0)
    load = np.bincount(part, weights=np.diff(indptr) + 1, minlength=4)
    assert load.max() < 1.05 * load.sum() / 4 + 901


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.integers(0, 29), max_size=40), st.lists(st.integers(0, 30), max_size=5))
def test_rows_by_owner_are_those_between_its_bounds_in_their_order(
    rows: list[int], cuts: list[int]
) -> None:
    """Ranks may own nothing."""
    bounds = np.array([0, *sorted(cuts), 30])
    order, starts = by_owner(np.array(rows, np.int64), bounds)
    assert sorted(order.tolist()) == list(range(len(rows)))
    assert (starts[0], starts[-1]) == (0, len(rows))
    for rank in range(len(bounds) - 1):
        positions = order[starts[rank] : starts[rank + 1]].tolist()
        assert positions == [
            k for k, row in enumerate(rows) if bounds[rank] <= row < bounds[rank + 1]
        ]


def prepare(home: Path, fault: dict[str, str]) -> None:
    """Makes data set and graph of home/log.csv, with one fault armed. Prints the graph's path."""
    arm(json.dumps([fault]))
    log = DatasetSettings(name="toy", interactions=home / "log.csv")
    print(prepare_graph(ingest_dataset(log, home / "cache"), GraphSettings(), home / "cache"))


@pytest.mark.parametrize("stage", ["ingest", "prepare"])
def test_of_two_runs_that_want_the_same_graph_one_makes_it_and_the_other_waits(
    tmp_path: Path, stage: str
) -> None:
    (tmp_path / "log.csv").write_text(
        "user,item,time\n" + "".join(f"{k % 9},{k % 7},{k}\n" for k in range(63))
    )
    begun, go_on = tmp_path / "begun", tmp_path / "go-on"
    pause = {"point": stage, "action": "pause", "once": str(begun), "until": str(go_on)}
    first, second = Program(prepare, tmp_path, pause), None
    try:
        while not begun.exists():
            assert first.process.is_alive(), first.stderr
            time.sleep(0.05)
        # it must not build itself
        second = Program(prepare, tmp_path, {"point": stage, "action": "exception"})
        while "\n" not in second.stderr:
            assert second.process.is_alive(), second.stderr
            time.sleep(0.05)
        assert f"waiting for process {first.process.pid} on " in second.stderr.splitlines()[0]
        assert second.process.is_alive()
        go_on.touch()
        assert (first.wait(), second.wait()) == (0, 0), (first.stderr, second.stderr)
    finally:
        for program in (first, second):
            if program is not None:
                program.kill()
    assert first.stdout == second.stdout
    Graph.open(Path(first.stdout.strip()), verify=True)
