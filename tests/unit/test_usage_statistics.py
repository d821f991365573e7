"""Ray's usage statistics are off wherever this package starts a Ray, unless one says otherwise."""

import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import ray

from recmind_dist.launch.cluster import start_ray
from recmind_dist.run_config.load import load_run_config

ROOT = Path(__file__).parents[2]
NAME = "RAY_USAGE_STATS_ENABLED"
IMAGES = [*(ROOT / "docker").glob("*.Dockerfile"), ROOT / "launchers" / "cluster" / "Dockerfile"]


@pytest.fixture(params=[None, "1"], ids=["unsaid", "wanted"])
def said(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """What the environment says, restored afterwards."""
    monkeypatch.setenv(NAME, "1")
    if request.param is None:
        monkeypatch.delenv(NAME)
    value: str | None = request.param
    return value


def launcher(name: str) -> ModuleType:
    path = ROOT / "launchers" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"launcher_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_command_s_own_ray(said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._common.usage.usage_lib import usage_stats_enabled

    seen: list[bool] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: seen.append(usage_stats_enabled()))
    start_ray(load_run_config(ROOT / "configs" / "quickstart.yaml"))
    assert seen == [said == "1"]


def test_a_cluster_and_a_job(said: str | None) -> None:
    given = {NAME: said} if said is not None else {}
    environment: dict[str, str] = {**given, "RAY_AUTH_MODE": "disabled"}
    cluster: Any = launcher("cluster")
    words = ["head", "--node-ip-address", "127.0.0.1"]
    command = cluster.ray_command(cluster.parse(words), environment)
    assert environment[NAME] == (said or "0")
    assert "--disable-usage-stats" not in command, "it would overrule the environment"
    job = dict(given)
    launcher("train").settle(job)
    assert job[NAME] == (said or "0")


def test_ray_serve_s_own_ray(said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    serve = ModuleType("ray.serve")  # [train] does not bring it
    vars(serve)["Application"] = object
    monkeypatch.setitem(sys.modules, "ray.serve", serve)
    monkeypatch.setattr(ray, "serve", serve, raising=False)
    launcher("ray_serve")
    assert os.environ[NAME] == (said or "0")


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_image(path: Path) -> None:
    assert re.search(rf"^ENV {NAME}=0$", path.read_text(encoding="utf-8"), re.M)
