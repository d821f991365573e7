"""launchers/cluster/*.yaml: what Ray's own schema takes, with a token, one shared directory, and
the version pinned here.
"""

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML

from recmind_dist.run_config.load import load_run_config

ROOT = Path(__file__).parents[2]
FILES = ROOT / "launchers" / "cluster"
[RAY] = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)


def read(name: str) -> dict[str, Any]:
    return dict(YAML(typ="safe").load((FILES / name).read_text()))


@pytest.mark.parametrize("name", ["aws.yaml", "on-premises.yaml"])
def test_ray_up_takes_the_file(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # of machines that are there, Ray keeps a list in the home directory
    monkeypatch.setenv("HOME", str(tmp_path))
    config = read(name)
    validate_config(prepare_config(config))
    with pytest.raises(jsonschema.ValidationError):
        validate_config({**config, "no_such_key": 1})


@pytest.mark.parametrize("name", ["aws.yaml", "on-premises.yaml"])
def test_nodes_start_with_the_token_and_a_closed_job_api(name: str) -> None:
    config = read(name)
    assert [there for there in config["file_mounts"] if there.endswith("/.ray/auth_token")]
    assert any(
        "chmod 600" in command and "auth_token" in command for command in config["setup_commands"]
    )
    for role, key in (("head", "head_start_ray_commands"), ("node", "worker_start_ray_commands")):
        [start] = [command for command in config[key] if not command.endswith("ray stop")]
        assert f"launchers/cluster.py {role}" in start, "which refuses to start without the token"
        assert "dashboard-host" not in start
    assert "mountpoint -q /shared" in " ".join(
        [*config.get("initialization_commands", []), *config["setup_commands"]]
    )


def cluster_of(name: str) -> dict[str, Any]:
    manifest = read(name)
    assert manifest["apiVersion"] == "ray.io/v1"
    spec: dict[str, Any] = manifest["spec"]
    return spec["rayClusterSpec"] if manifest["kind"] == "RayJob" else spec


@pytest.mark.parametrize("name", ["kuberay-cluster.yaml", "kuberay-job.yaml"])
def test_kuberay_pods_have_a_token_one_volume_and_one_image(name: str) -> None:
    cluster = cluster_of(name)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == RAY
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    claim = read("kuberay-storage.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    images = {}
    for group in groups:
        pod = group["template"]["spec"]
        [container] = pod["containers"]
        images[group.get("groupName")] = container["image"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts["shared"] == container["workingDir"] == "/shared"
        claims = [
            v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if v["name"] == "shared"
        ]
        assert claims == [claim["metadata"]["name"]]
        assert not [variable for variable in container["env"] if "TOKEN" in variable["name"]], (
            "no token in a file"
        )
    assert images["gpu-workers"] == f"{images['workers']}-gpu"
    assert images[None] == images["workers"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}


def groups_of(name: str) -> dict[str, dict[str, Any]]:
    return {group["groupName"]: group for group in cluster_of(name)["workerGroupSpecs"]}


@pytest.mark.parametrize("name", ["kuberay-cluster.yaml", "kuberay-job.yaml"])
def test_pods_with_a_gpu_come_when_they_are_asked_for_and_take_one_each(name: str) -> None:
    groups = groups_of(name)
    assert set(groups) == {"workers", "gpu-workers"}
    group = groups["gpu-workers"]
    assert (group["replicas"], group["minReplicas"]) == (0, 0)
    assert group["maxReplicas"] > 0
    pod = group["template"]["spec"]
    resources = pod["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == "1"
    assert resources["requests"] == resources["limits"]
    assert [toleration["key"] for toleration in pod["tolerations"]] == ["nvidia.com/gpu"]
    on_cpu = groups["workers"]["template"]["spec"]["containers"][0]["resources"]
    assert "nvidia.com/gpu" not in on_cpu["limits"]


def test_machines_with_gpus_have_an_image_and_a_container_for_them() -> None:
    config = read("aws.yaml")
    worker = config["available_node_types"]["gpu_worker"]
    assert worker["min_workers"] == 0
    assert worker["docker"]["worker_image"] == config["docker"]["image"].replace("-cpu", "-gpu")
    assert config["max_workers"] >= sum(
        kind.get("max_workers", 0) for kind in config["available_node_types"].values()
    )
    dockerfile = (FILES / "Dockerfile").read_text()
    assert "--build-arg FLAVOUR=gpu" in dockerfile
    assert config["docker"]["image"] == re.findall(r"^FROM (\S+)$", dockerfile, re.M)[0].replace(
        "${FLAVOUR}", "cpu"
    )


def test_the_two_manifests_have_the_same_pods() -> None:
    assert cluster_of("kuberay-cluster.yaml") == cluster_of("kuberay-job.yaml")


def test_the_job_runs_the_launcher_with_settings_that_are_valid() -> None:
    spec = read("kuberay-job.yaml")["spec"]
    assert spec["shutdownAfterJobFinishes"]
    found = re.fullmatch(
        r"cd /shared && python /opt/recmind/(\S+) --config /opt/recmind/(\S+) '(\S+ \d\])' (\S+)",
        spec["entrypoint"],
    )
    assert found is not None
    launcher, config, *overrides = found.groups()
    assert (ROOT / launcher).is_file()
    chosen = load_run_config(ROOT / config, overrides)
    group = groups_of("kuberay-job.yaml")["workers"]
    assert chosen.scaling.num_workers == (1, group["maxReplicas"])
    assert chosen.storage_uri == "s3://BUCKET/runs/quickstart"


def test_images_are_of_the_pinned_ray() -> None:
    images = [
        read("aws.yaml")["docker"]["image"],
        (FILES / "Dockerfile").read_text().split("FROM ")[1].split()[0],
    ]
    assert [image.rpartition(":")[2].partition("-")[0] for image in images] == [RAY, RAY]
