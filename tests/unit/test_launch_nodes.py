"""Whether a node can take part: its packages and what it sees of the run's files, and how many
workers a config asks for.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from recmind_dist.errors import ConfigError
from recmind_dist.launch import cluster
from recmind_dist.launch.cluster import start_ray
from recmind_dist.launch.network import Network, fewest_nodes, loopback_fault, open_files_fault
from recmind_dist.launch.node_check import NodeRequirements, check_node, versions
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import read_json
from recmind_dist.training.run_stores import RunStores

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


@pytest.fixture
def requirements(tmp_path: Path) -> NodeRequirements:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "token").write_text("word")
    (tmp_path / "manifest.json").write_text("{}")
    return NodeRequirements(
        versions(), str(tmp_path / "logs" / "token"), "word", [str(tmp_path / "manifest.json")]
    )


def test_a_node_like_the_driver_is_fit(requirements: NodeRequirements) -> None:
    assert check_node(requirements) is None
    assert "none" not in versions().values()
    assert check_node(NodeRequirements(**requirements.to_json())) is None


def test_a_worker_on_a_node_that_came_later_is_checked_before_it_joins_the_others(
    requirements: NodeRequirements, tmp_path: Path
) -> None:
    from recmind_dist.launch.ray_train import _worker_context

    refusal = tmp_path / "logs" / "refused.json"
    order = {
        "config": config().absolute().model_dump(mode="json"),
        "inputs": RunStores(tmp_path).to_json(),
        "refusal": str(refusal),
        "run_dir": str(tmp_path),
        "requirements": replace(requirements, versions={"torch": "9.9.9"}).to_json(),
    }
    with (
        pytest.raises(
            ConfigError, match=r"^node \S+ has torch .*, the driver torch 9\.9\.9: install"
        ),
        _worker_context(order),
    ):
        raise AssertionError("it must not join")
    assert read_json(refusal)["error"] == "ConfigError"


def test_other_versions_are_named_with_ours(requirements: NodeRequirements) -> None:
    ours = {**requirements.versions, "torch": "9.9.9"}
    theirs = requirements.versions["torch"]
    assert check_node(replace(requirements, versions=ours)) == (
        f"has torch {theirs}, the driver torch 9.9.9: install the same versions on every node"
    )


def test_files_that_a_node_does_not_see(requirements: NodeRequirements, tmp_path: Path) -> None:
    assert check_node(replace(requirements, word="another")) == (
        f"sees another directory at run_dir {tmp_path}: put it on storage that every node mounts"
    )
    gone = str(tmp_path / "gone" / "manifest.json")
    assert check_node(replace(requirements, paths=[gone])) == (
        f"cannot read {gone} (No such file or directory): put it on storage that every node mounts"
    )
    Path(requirements.token).unlink()
    assert check_node(requirements) == (
        f"does not see run_dir {tmp_path} (No such file or directory): put it on storage that "
        "every node mounts"
    )


LAN = Network([], {"lo": True, "eth0": False}, "gpu-7", "10.0.0.7")


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (LAN, None),
        (replace(LAN, address="fe80::1%eth0"), None),
        (replace(LAN, chosen=["eth0"], address="127.0.1.1"), None),
        (
            replace(LAN, address="127.0.1.1"),
            "is not reached by other nodes: its hostname gpu-7 stands for 127.0.1.1, where gloo "
            "listens: correct /etc/hosts, or set GLOO_SOCKET_IFNAME to the interface that the "
            "other nodes reach, before `ray start`",
        ),
        (replace(LAN, address="::1"), "its hostname gpu-7 stands for ::1, where gloo listens"),
        (
            replace(LAN, address=""),
            "its hostname gpu-7 is no address of its own, and gloo then listens on loopback",
        ),
        (
            replace(LAN, chosen=["eth0", "lo"]),
            (
                "is not reached by other nodes at interface lo (GLOO_SOCKET_IFNAME): set "
                "GLOO_SOCKET_IFNAME to"
            ),
        ),
        (
            replace(LAN, chosen=["ib0"]),
            "has no network interface ib0 (GLOO_SOCKET_IFNAME): it has eth0, lo",
        ),
    ],
)
def test_a_node_where_gloo_would_listen_on_loopback(network: Network, sentence: str | None) -> None:
    fault = loopback_fault(network)
    assert (fault is None) if sentence is None else (fault is not None and sentence in fault)


def test_loopback_matters_only_between_machines(
    requirements: NodeRequirements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert check_node(replace(requirements, num_ranks=2)) is None
    fault = check_node(replace(requirements, num_ranks=2, many_nodes=True))
    assert fault is not None
    assert fault.startswith("is not reached by other nodes at interface lo")


@pytest.mark.parametrize(
    ("rooms", "workers", "nodes"),
    [
        ([8], 4, 1),
        ([8, 8], 8, 1),
        ([8, 8], 9, 2),
        ([1, 1, 1], 2, 2),
        ([2, 8, 4], 13, 3),
        ([4], 16, 1),
        ([8, 8], 0, 0),
    ],
)
def test_on_how_many_nodes_workers_run_at_least(rooms: list[int], workers: int, nodes: int) -> None:
    assert fewest_nodes(rooms, workers) == nodes


def test_more_ranks_than_sockets_are_refused_with_what_to_do() -> None:
    assert open_files_fault(1024, 200, shared_memory=False) is None
    assert open_files_fault(1024, 1, shared_memory=True) is None
    assert open_files_fault(65536, 2000, shared_memory=True) is None
    assert open_files_fault(1024, 256, shared_memory=False) == (
        "lets a process open 1024 files, and 256 ranks need about 1152: run `ulimit -n 65536` "
        "before `ray start` (or "
        "`recmind`), or lower scaling.num_workers"
    )
    assert open_files_fault(1024, 89, shared_memory=True) is None
    fault = open_files_fault(1024, 90, shared_memory=True)
    assert fault is not None
    assert "90 ranks need about 1028" in fault


def test_a_node_must_see_every_store_that_workers_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_workers_by_machine", lambda kind: [4])
    inputs = RunStores(
        tmp_path / "graph",
        text=tmp_path / "vectors",
        whitening=tmp_path / "whitening.safetensors",
        texts=tmp_path / "texts.arrow",
        item_vectors=tmp_path / "items",
    )
    settings = config(f"run_dir={tmp_path / 'run'}", "text.model=none")
    with cluster.publish_requirements(settings, inputs) as requirements:
        assert {str(Path(path).relative_to(tmp_path)) for path in requirements.paths} == {
            "graph/manifest.json",
            "vectors/store.json",
            "items/store.json",
            "whitening.safetensors",
            "texts.arrow",
        }


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:1", "RAY_ADDRESS 127.0.0.1:1: no Ray cluster answers"),
        ("no-such-host.invalid:6379", "no Ray cluster answers"),
        ("127.0.0.1:99999", "no Ray cluster answers"),
        (
            "http://127.0.0.1:8265",
            "the address of the job API: give HEAD:6379, or use `ray job submit`",
        ),
    ],
)
def test_an_address_where_nobody_answers_is_refused_in_one_sentence(
    address: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError) as refused:
        start_ray(load_run_config(CONFIG))
    assert sentence in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_password_in_a_uri_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="storage_uri: holds a password or key") as refused:
        config("storage_uri=s3://key:secret@bucket/x")
    assert "secret" not in str(refused.value).replace(
        "override 'storage_uri=s3://key:secret@bucket/x'", ""
    )


@pytest.mark.parametrize("key", ["run_dir", "cache_dir"])
def test_a_uri_where_a_directory_is_needed(key: str) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"{key}: s3:/bucket/x: a mounted directory is needed here: give the URI as stor",
    ):
        config(f"{key}=s3://bucket/x")


def test_ray_address_auto_without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(
        **_: object,
    ) -> None:  # what Ray raises; a real search would find other people's clusters of this machine
        raise ConnectionError(
            "Could not find any running Ray instance. Please specify the one to connect to."
        )

    monkeypatch.setattr("ray.init", nobody)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(
        ConfigError,
        match=r"RAY_ADDRESS auto: no Ray cluster answers \(Could not find any running Ray",
    ):
        start_ray(load_run_config(CONFIG))


def config(*words: str) -> RunConfig:
    return load_run_config(CONFIG, list(words))


def test_a_number_of_workers_or_a_range_of_it() -> None:
    fixed, free = (
        config("scaling.num_workers=3").scaling,
        config("scaling.num_workers=[2, 8]").scaling,
    )
    assert (fixed.max_workers, fixed.elastic) == (3, False)
    assert (free.max_workers, free.elastic) == (8, True)
    again = RunConfig.model_validate(config("scaling.num_workers=[2, 8]").model_dump(mode="json"))
    assert again.scaling == free
    # what a step computes does not depend on it, so a checkpoint is continued on any number
    assert config("storage_uri=s3://b/x?region=eu").overrides_beside("lightgcn") == [
        "run_dir=runs/quickstart-lightgcn",
        'storage_uri="s3://b/x-lightgcn?region=eu"',
    ]
    assert (
        config("scaling.num_workers=3").identity()
        == config("scaling.num_workers=[2, 8]").identity()
    )


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("[4, 2]", "give 1 or more, and min not above max"),
        ("0", "give 1 or more, and min not above max"),
        ("[0, 2]", "give 1 or more, and min not above max"),
        ("[1, 2, 3]", "give a whole number, or two as [min, max]"),
        ("1.5", "give a whole number, or two as [min, max]"),
        ("true", "give a whole number, or two as [min, max]"),
        ("many", "'many': give a whole number, or two as [min, max]"),
        ("[1, 5000]", "train.batch_size 2048 is below scaling.num_workers 5000: raise it"),
    ],
)
def test_other_numbers_are_refused_in_one_line(value: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config(f"scaling.num_workers={value}", "train.batch_size=2048")
    assert sentence in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
