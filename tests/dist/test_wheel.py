"""The wheel alone, in an environment of its own and outside of the repository, runs what README.md
shows from Python. Needs a package index, for `build` and `twine`.
"""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from recmind_dist.config.yaml import load_yaml
from tests.shop import environment

pytestmark = pytest.mark.dist_slow

ROOT = Path(__file__).parents[2]
EPOCHS = "\ntrain: {epochs: 1}\n"
"""For the quick start, whose training is tested elsewhere."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with sdist and wheel, which twine has found fit."""
    into = tmp_path_factory.mktemp("packages")
    command = [str(ROOT / ".ci" / "package"), str(into)]
    env = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2
    return into


@pytest.mark.timeout(300)
def test_the_wheel_has_every_file_that_is_read_and_the_sdist_no_test(packages: Path) -> None:
    [wheel], [sdist] = packages.glob("*.whl"), packages.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "recmind_dist", "configs"], cwd=ROOT, capture_output=True, text=True,
        check=True,
    ).stdout.split()  # fmt: skip
    expected = {re.sub("^configs/", "recmind_dist/configs/", name) for name in tracked}
    assert expected - names == set()
    with tarfile.open(sdist) as archive:
        assert [name for name in archive.getnames() if "/tests/" in name] == []


@pytest.fixture(scope="module")
def home(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an environment that has the wheel, and this one's libraries behind it."""
    home = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "venv", str(home / "venv")], check=True)
    [wheel] = packages.glob("*.whl")
    # -I: else pip finds this checkout by PYTHONPATH, and that nothing is to be done
    pip = [str(home / "venv" / "bin" / "python"), "-I", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    # a path alone: the .pth files in it, by which this checkout would be found, are not read
    [libraries] = (home / "venv").glob("lib/python*/site-packages")
    (libraries / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name in ("data/ml-100k", "models/minilm"):  # else they are fetched
        if (ROOT / name).is_dir():
            (home / name).parent.mkdir()
            (home / name).symlink_to((ROOT / name).resolve())
    return home


def run_there(home: Path, ray_home: Path, *words: str) -> str:
    """What a program of the environment prints, in `home`."""
    programs = home / "venv" / "bin"
    env = environment(ray_home, PATH=f"{programs}:{os.environ['PATH']}")
    env.pop("PYTHONPATH", None)
    command = [str(programs / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(600)
def test_pythons_section_of_the_readme_runs_from_the_wheel_alone(
    home: Path, ray_home: Path
) -> None:
    ask = "import recmind_dist; print(recmind_dist.__file__)"
    package = run_there(home, ray_home, "python", "-c", ask)
    assert Path(package.strip()).is_relative_to(home / "venv")
    copy = ["configs", "copy", "quickstart", "--to", "configs/quickstart.yaml"]
    run_there(home, ray_home, "recmind", *copy)
    config = home / "configs" / "quickstart.yaml"
    assert config.read_bytes() == (ROOT / "configs" / "quickstart.yaml").read_bytes()
    config.write_text(config.read_text() + EPOCHS)
    assert load_yaml(config).values["train"] == {"epochs": 1}

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    *_, last = block.strip().splitlines()
    assert last.startswith("load(")
    (home / "section.py").write_text(f"{block}print({last}.num_rows)\n")
    said = run_there(home, ray_home, "python", "section.py").splitlines()
    assert said[-1] == "30"  # ten items for each of three users
    assert (home / "runs" / "quickstart" / "results.json").is_file()
