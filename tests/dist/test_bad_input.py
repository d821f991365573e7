"""Bad input through the command: one sentence with the place and the remedy, before Ray starts,
nothing left behind.
"""

import json
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest

from recmind_dist.cli import main
from tests.shop import RECMIND, environment, make_shop
from tests.tiny_language_model import make_bert

HEAD = "buyer_ref,sku,bought_at,qty,shop"
Fails = Callable[..., str]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("original")
    make_shop(home)
    make_bert(home / "bert")
    return home


@pytest.fixture
def home(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shop of this test's own, as the current directory, in a process whose Ray cannot start."""
    shutil.copytree(original, tmp_path / "shop")
    monkeypatch.chdir(tmp_path / "shop")
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    return tmp_path / "shop"


@pytest.fixture
def fails(home: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Fails]:
    """Runs a command that must fail and returns its sentence."""

    def run(*words: str, code: int = 2) -> str:
        with pytest.raises(SystemExit) as stop:
            main(list(words))
        said = capfd.readouterr().err
        assert stop.value.code == code
        assert "Traceback" not in said
        sentences = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(sentences) == 1, said
        assert nothing_half_written(home)
        return sentences[0].removeprefix("error: ")

    yield run
    assert nothing_half_written(home)


def nothing_half_written(home: Path) -> bool:
    made = [*home.glob("**/dataset-*"), *home.glob("**/graph-*")]
    return not list(home.rglob(".partial-*")) and all(
        (directory / "manifest.json").is_file() for directory in made
    )


def with_line(home: Path, line: bytes) -> int:
    """Adds a line to the log. Returns its number."""
    log = home / "log.csv"
    log.write_bytes(log.read_bytes() + line + b"\n")
    return log.read_bytes().count(b"\n")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "log.csv: the file is empty: give a file with rows in dataset.interactions.path"),
        ("\n\n", "log.csv: nothing but blank lines: give a file with rows"),
        (f"{HEAD}\n", "log.csv: the log has no interaction: give a file with at least one row"),
    ],
)
def test_an_empty_log(home: Path, fails: Fails, content: str, sentence: str) -> None:
    (home / "log.csv").write_text(content)
    assert fails("prepare", "shop.yaml") == sentence
    assert not (home / "cache").exists()


def test_a_split_that_leaves_no_training_edge(home: Path, fails: Fails) -> None:
    rows = [f"u{n % 9},i{n},2024-05-01,1,x" for n in range(40)]
    (home / "log.csv").write_text("\n".join([HEAD, *rows]))
    said = fails("prepare", "shop.yaml", "graph.split=global-time", "graph.test_share=0.1")
    assert said == "shop: graph.split global-time leaves no training interaction: hold out less"
    said = fails(
        "prepare", "shop.yaml", "graph.split=ratio", "graph.test_share=0.6", "graph.valid_share=0.4"
    )
    assert (
        "graph.valid_share + graph.test_share leave nothing to train on: keep the sum below 1"
        in said
    )
    said = fails("prepare", "shop.yaml", "graph.split=given")
    assert said == "shop: graph.split is given, but the data set has none: set dataset.test"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"caf\xe9,i1,2020-09-13T12:26:40,1,x", "not UTF-8 at byte 3 of the line"),
        (b"u1,i2,NaN,1,x", "time is not a finite number"),
        (b"u1,i2", "2 fields where the file has 5"),
        (b",i2,2020-09-13T12:26:40,1,x", "no user"),
    ],
)
def test_a_bad_row_of_the_log_is_named_or_set_aside(
    home: Path, fails: Fails, line: bytes, reason: str
) -> None:
    number = with_line(home, line)
    said = fails("prepare", "shop.yaml")
    assert said.startswith(
        f"log.csv:{number}: {reason}: more than dataset.max_bad_rows = 0 bad rows: "
    )
    assert not (home / "cache").exists()
    main(["prepare", "shop.yaml", "dataset.max_bad_rows=1"])
    [quarantine] = home.glob("cache/shop/dataset-*/quarantine.jsonl")
    assert [json.loads(row)["line"] for row in quarantine.read_text().splitlines()] == [number]


def test_nan_among_numeric_times(home: Path, fails: Fails) -> None:
    rows = [f"u{n % 9},i{n},{n},1,x" for n in range(40)]
    (home / "log.csv").write_text("\n".join([HEAD, *rows, "u1,i2,NaN,1,x"]))
    assert fails("prepare", "shop.yaml").startswith("log.csv:42: time is not a finite number: ")


def test_bad_lines_of_the_item_file(home: Path, fails: Fails) -> None:
    things = home / "things.jsonl"
    lines = things.read_bytes().splitlines(keepends=True)
    other = lines[4].replace(b'"label": "', b'"label": "other ')
    assert other != lines[4], "an equal line would be a copy, which is merged"
    things.write_bytes(b"".join([*lines, other]))
    said = fails("prepare", "shop.yaml")
    assert (
        said
        == "things.jsonl:5 and things.jsonl:80: item id 'i5' stands on both lines and differs: "
        "remove one, or set dataset.items.repeats: first or last"
    )
    things.write_bytes(b'{"code": "i1", "label": "caf\xe9"}\n')
    assert fails("prepare", "shop.yaml").startswith(
        "things.jsonl:1: not UTF-8 at byte 28 of the line: "
    )
    things.write_bytes(lines[0] + b'{"code":\n')
    assert fails("prepare", "shop.yaml").startswith("things.jsonl:2: not JSON ")
    said = fails("prepare", "shop.yaml", "dataset.items.id=sku")
    assert (
        said
        == "things.jsonl: no column 'sku': set dataset.items.id to one of the columns there are: "
        + ("code, label, kinds, more")
    )


def test_duplicate_users_of_a_parquet_file(home: Path, fails: Fails) -> None:
    users = pl.read_parquet(home / "people.parquet")
    other = users[3:4].with_columns(trade=pl.lit("another"))
    pl.concat([users, other]).write_parquet(home / "people.parquet")
    said = fails("prepare", "shop.yaml")
    assert (
        said == "people.parquet:4 and people.parquet:202: user id 'u3' stands on both lines and "
        "differs: remove one, or set dataset.users.repeats: first or last"
    )


def test_ids_that_are_numbers_in_one_file_and_text_in_another(home: Path, fails: Fails) -> None:
    rows = [f"{n % 9},{n % 30},{n},1,x" for n in range(90)]
    (home / "log.csv").write_text("\n".join([HEAD, *rows]))
    things = [
        json.dumps({"code": n if n % 2 else f"{n}", "label": "space", "kinds": []})
        for n in range(30)
    ]
    (home / "things.jsonl").write_text("\n".join(things))
    floats = [float(n) for n in range(9)]  # as pandas writes whole numbers beside a missing one
    pl.DataFrame({"ref": floats, "trade": ["king"] * 9}).write_parquet(home / "people.parquet")
    main(["prepare", "shop.yaml"])
    [manifest] = home.glob("cache/shop/dataset-*/manifest.json")
    counts = json.loads(manifest.read_text())["counts"]
    assert (counts["users_without_text"], counts["items_without_text"], counts["items_unseen"]) == (
        0,
        0,
        0,
    )

    (home / "things.jsonl").write_text('{"code": "sku-1", "label": "space", "kinds": []}\n')
    said = fails("prepare", "shop.yaml")
    assert said == (
        "things.jsonl: no item id in common with the log: 'sku-1' here, '0' there: "
        "check dataset.items.id and dataset.interactions.columns.item"
    )


def test_settings_that_contradict_each_other(fails: Fails) -> None:
    said = fails("run", "shop.yaml", "sampler.num_neighbors=[5, 5, 5]")
    assert (
        "sampler.num_neighbors has 3 hops, model.num_layers is 2: give one fan-out per layer"
        in said
    )
    assert "train.epoch: unknown key" in fails("validate", "shop.yaml", "train.epoch=3")
    assert "write key.sub=value" in fails("validate", "shop.yaml", "train.epochs")
    assert "compare.0: Input should be 'recmind', 'popularity'" in fails(
        "validate", "shop.yaml", "compare=[lightgnc]"
    )
    assert (
        fails("run", "shop.yaml", "--resume", "maybe")
        == "--resume maybe: choose auto, must or never"
    )


def test_more_ranks_than_users(home: Path, fails: Fails) -> None:
    said = fails("run", "shop.yaml", "scaling.num_workers=500", "train.batch_size=512")
    assert "scaling.num_workers" in said
    assert "500" in said
    assert "201 users" in said
    assert "lower it" in said
    assert not (home / "runs" / "shop" / "results.json").exists()


def test_a_model_that_is_not_there_or_another(home: Path, fails: Fails) -> None:
    said = fails("run", "shop.yaml", "text.model=models/none")
    assert said.startswith(
        "text.model: no directory models/none: run `recmind fetch` for the model, or give "
    )
    said = fails("embed", "shop.yaml", "text.model=synth")
    assert "synth has no config.json: give a transformers directory saved as safetensors" in said
    wrong = "5" * 63 + "a"
    said = fails("run", "shop.yaml", f"text.model_sha256={wrong}")
    assert said.startswith("text.model_sha256: ")
    assert f"not {wrong}: fetch the model again, or correct the hash" in said
    said = fails("embed", "shop.yaml", 'text.item_template="{title}"')
    assert said.startswith(
        "text.item_template: no field 'title' in the file, which has id, label, kinds, more"
    )
    assert not list(home.glob("cache/shop/text/*/ledger/*"))


@pytest.mark.parametrize("command", ["embed", "run", "train", "validate"])
def test_texts_longer_than_the_models_positions_are_refused_before_ray_starts(
    command: str, home: Path, fails: Fails
) -> None:
    said = fails(command, "shop.yaml", "text.max_tokens=200", "text.user_max_tokens=129")
    assert said == (
        "text.max_tokens 200, text.user_max_tokens 129: the model has 128 positions: lower it, or "
        "take a model for longer texts"
    )
    assert not list(home.glob("cache/shop/text/*/ledger/*"))


def test_a_directory_that_is_no_run(fails: Fails) -> None:
    assert fails("evaluate", "runs/none").startswith(
        "runs/none/config.yaml: cannot be read (No such file or directory)"
    )
    said = fails("recommend", "runs/none", "--user", "u1")
    assert said.startswith("runs/none: neither a bundle nor a run")
    assert fails("run", "none.yaml").startswith("none.yaml: cannot be read")


@pytest.mark.parametrize(
    "words", [["runn"], ["run", "shop.yaml", "--again"], ["recommend", "runs/shop"], []]
)
def test_a_mistyped_command_shows_its_usage(
    words: list[str], home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    said = capfd.readouterr().err
    assert stop.value.code == 2
    assert said.startswith("Usage: ")
    assert "Traceback" not in said


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of so many KiB. Skips where mounting is not allowed."""
    point = tmp_path / "disk"
    point.mkdir()

    def mount(kib: int) -> Path:
        words = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(point)]
        if (
            shutil.which("mount") is None
            or subprocess.run(words, capture_output=True, check=False).returncode
        ):
            pytest.skip("mounting a file system is not allowed here")
        return point

    yield mount
    while subprocess.run(["umount", str(point)], capture_output=True, check=False).returncode == 0:
        pass


@pytest.mark.parametrize("kib", [8, 16, 40])
def test_a_full_disk_leaves_nothing_that_looks_whole(
    tiny_disk: Callable[[int], Path], kib: int, home: Path, fails: Fails
) -> None:
    disk = tiny_disk(kib)
    said = fails("prepare", "shop.yaml", f"cache_dir={disk}")
    assert said.startswith(f"{disk}: cannot be written (")
    assert said.endswith("): free space or choose another cache")
    assert nothing_half_written(disk)
    assert not list(disk.glob("shop/graph-*"))


def test_a_file_size_limit_is_one_sentence_of_the_installed_command(home: Path) -> None:
    """As a full disk, for where nothing can be mounted; and the exit code and stderr of the real
    process.
    """
    limit = 1 << 10  # bytes
    with tempfile.TemporaryDirectory(prefix="r") as ray_home:
        done = subprocess.run(
            [str(RECMIND), "prepare", "shop.yaml"],
            cwd=home,
            env=environment(Path(ray_home)),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: cache: cannot be written (")
    assert "Traceback" not in done.stderr
    assert nothing_half_written(home)
    assert not list(home.glob("cache/shop/dataset-*"))
