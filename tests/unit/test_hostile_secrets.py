"""Secrets of the environment: no setting asks for one, and nothing that is written or said has one
in it.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from recmind_dist.report import RunDirectory
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig
from tests.shop import make_shop

SECRETS = {
    "RAY_AUTH_TOKEN": "5ecre7" * 10,
    "HF_TOKEN": "hf_5ecre7aaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "AWS_SECRET_ACCESS_KEY": "5ecre7bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
    "MLFLOW_TRACKING_PASSWORD": "5ecre7ccccc",
    "PIP_INDEX_URL": "https://someone:5ecre7ddddd@127.0.0.1:1/simple",
}
MARK = "5ecre7"


def field_names(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[str]:
    seen.add(model)
    for name, field in model.model_fields.items():
        yield name
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel) and inner not in seen:
                yield from field_names(inner, seen)


def test_no_setting_is_a_place_for_a_secret() -> None:
    names = set(field_names(RunConfig, set()))
    assert {"run_dir", "num_workers", "model_sha256"} <= names, "groups were looked into"
    telling = ("password", "passwd", "secret", "credential", "api_key", "auth")
    assert [
        name for name in names if any(word in name for word in telling) or name.endswith("token")
    ] == []


def test_the_environment_is_not_in_the_config_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_shop(tmp_path)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    config.write_text(config.read_text() + "experiment: ${HF_TOKEN}\n")
    with pytest.raises(ValueError, match="experiment: unknown key"):
        load_run_config(config, [])
    config.write_text(config.read_text().replace("experiment: ${HF_TOKEN}\n", ""))
    found = load_run_config(config, ["text.user_template='${HF_TOKEN} {items}'"])
    run = RunDirectory(tmp_path / "run")
    run.create()
    run.write_config(found.model_dump(mode="json"))
    assert "${HF_TOKEN} {items}" in run.config.read_text(), "as written: nothing is filled in"
    assert MARK not in run.config.read_text()


def test_a_command_writes_and_says_nothing_of_its_secrets(tmp_path: Path) -> None:
    make_shop(tmp_path)
    recmind = [str(Path(sys.executable).parent / "recmind")]
    env = {**os.environ, **SECRETS, "HOME": str(tmp_path), "PIP_RETRIES": "0"}
    commands = (
        ["prepare", "shop.yaml"],
        ["validate", "shop.yaml", "train.epoch=1"],
        ["fetch", "smollm2"],
    )
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen([*recmind, *words], cwd=tmp_path, env=env, stdout=pipe, stderr=pipe)
        for words in commands
    ]
    outputs = [output for process in running for output in process.communicate(timeout=200)]
    said = b"".join(outputs).decode()
    assert "train.epoch: unknown key" in said
    assert "no source gave it" in said, "the index that the secret belongs to was asked"
    assert MARK not in said
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "manifest.json" for path in written)
    assert [path for path in written if MARK.encode() in path.read_bytes()] == []
