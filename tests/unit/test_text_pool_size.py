"""How many extraction workers a cluster gets: never more than have room, for one without it would
wait for ever.
"""

import logging

import pytest

from recmind_dist.run_config.load import load_run_config
from recmind_dist.text.pool import num_actors, num_slots
from tests.unit.test_launch_device import ROOT


def test_a_slot_is_a_cpu_and_on_gpus_a_gpu_of_the_same_node() -> None:
    head, small, crowded = {"CPU": 8.0}, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 8.0}
    assert num_slots([head, small, crowded], on_gpus=True) == 3
    assert num_slots([head, small, crowded], on_gpus=False) == 14
    assert num_slots([{"GPU": 1.0}, {"memory": 1e9}], on_gpus=True) == 0


@pytest.mark.parametrize("config", ["amazon-beauty.yaml", "yelp.yaml"])
@pytest.mark.parametrize(("gpus", "expected"), [(1, 1), (2, 2), (8, 2)])
def test_the_recipes_find_room_whatever_the_gpus(config: str, gpus: int, expected: int) -> None:
    wanted = load_run_config(ROOT / "configs" / config, []).text.num_actors
    assert wanted == 2
    assert (
        num_actors(
            wanted, num_slots([{"CPU": 16.0, "GPU": float(gpus)}], on_gpus=True), num_jobs=10
        )
        == expected
    )


def test_a_lowered_number_of_workers_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert num_actors(0, 4, 10) == 4
        assert num_actors(3, 4, 2) == 2  # no more than shards: no warning
        assert num_actors(8, 1, 1) == 1
    assert not caplog.records
    assert num_actors(3, 2, 10) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "text.num_actors: 3 lowered to 2: the cluster has no room for more"
    ]


def test_a_cluster_without_a_node_yet_gets_one_worker_that_waits_for_it() -> None:
    assert num_actors(0, 0, 10) == 1
    assert num_actors(4, 0, 10) == 1
