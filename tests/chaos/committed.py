"""That a restarted run holds what the checkpoint it names had, to the bit."""

from pathlib import Path
from typing import Any

from recmind_dist.checkpoint.fingerprint import fingerprint_rows, fingerprint_whole
from recmind_dist.checkpoint.reader import find_checkpoint
from recmind_dist.report import read_metrics


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    """Lines of a kind in the run's metrics.jsonl; none before there is one."""
    metrics = run / "metrics.jsonl"
    return list(read_metrics(metrics, kind)) if metrics.exists() else []


def assert_loaded_what_was_committed(run: Path) -> list[int]:
    """Every restart says what it holds before its first step: the bits of the COMMIT it names, read
    here anew.

    Returns:
        How many ranks had written each of those checkpoints.
    """
    loaded = [record for record in records(run, "loaded") if "rows" in record]
    dense = [record for record in records(run, "loaded") if record.get("phase") == "joint"]
    resumed = [start for start in records(run, "start") if start["steps_done"]]
    assert len(loaded) == len(resumed) > 0
    writers = []
    for start, record in zip(resumed, loaded, strict=True):
        found = find_checkpoint(run / "checkpoints", record["checkpoint"])
        assert found is not None
        assert found.step == start["steps_done"]
        assert record["world_size"] == start["world_size"]
        rows = found.rows(0, found.num_rows)
        assert {"weight", "exp_avg", "exp_avg_sq", "steps"} <= set(rows)
        assert f"{fingerprint_rows(rows, 0):016x}" == record["rows"]
        [whole] = [entry for entry in dense if entry["time"] >= record["time"]][:1]
        assert f"{fingerprint_whole(found.dense()):016x}" == whole["dense"]
        writers.append(found.manifest.world_size)
    return writers
