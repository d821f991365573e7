"""`recmind validate`: says what a run would refuse, in its words, and starts nothing."""

import gzip
import resource
from pathlib import Path
from typing import Any

import pytest

from recmind_dist.errors import ConfigError, DataError, RecmindError, StoreError, TextError
from recmind_dist.ingest import DatasetSettings, first_rows, ingest_dataset
from recmind_dist.launch import cluster, device, machine
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.pipeline.validate import validate
from recmind_dist.run_config.run_config import RunConfig
from tests.tiny_language_model import make_bert

ROWS = [f"u{user},i{(3 * user + step) % 12},{step + 10}" for user in range(9) for step in range(4)]
ITEMS = [f'i{item},"Lamp {item}",red' for item in range(12)]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("log.csv", ["user,item,time", *ROWS])
    write("items.csv", ["id,title,colour", *ITEMS])


def write(name: str, lines: list[str]) -> None:
    Path(name).write_text("\n".join(lines) + "\n")


def config_of(bert: Path, **changes: Any) -> RunConfig:
    dataset = {"name": "shop", "interactions": "log.csv", "items": "items.csv"}
    values: dict[str, Any] = {
        "dataset": dataset | changes.pop("dataset", {}),
        "text": {"model": str(bert)} | changes.pop("text", {}),
    }
    return RunConfig.model_validate(values | changes)


def said_of(config: RunConfig) -> str:
    said: list[str] = []
    validate(config, said.append)
    return "\n".join(said)


def refusal(config: RunConfig, kind: type[RecmindError] = DataError) -> str:
    with pytest.raises(kind) as caught:
        validate(config, lambda line: None)
    return str(caught.value)


def first_rows_only(monkeypatch: pytest.MonkeyPatch, size: int = 120) -> None:
    for name in ("FILE_BYTES", "LEAST_BYTES"):
        monkeypatch.setattr(first_rows, name, size)


def test_a_small_data_set_is_prepared_aside_and_nothing_is_left(bert: Path) -> None:
    config = config_of(bert)
    said = said_of(config)
    assert sorted(path.name for path in Path().iterdir()) == ["items.csv", "log.csv"]
    prepared: list[str] = []
    Pipeline(config, prepared.append).prepare()
    lines = [line for line in prepared if not line.startswith("graph: at")]
    assert said.startswith("\n".join(lines))
    assert "BertModel, width 32, pooling mean" in said
    assert "cache_dir cache: " in said


@pytest.mark.parametrize("template", ["{name}", "{name} of {colour}", "{Title}"])
def test_a_template_of_fields_that_are_not_there_is_no_data_set_without_texts(
    bert: Path, template: str
) -> None:
    config = config_of(bert, text={"item_template": template})
    said = refusal(config, TextError)
    field = template.partition("}")[0][1:]
    assert said == (
        f"text.item_template: no field {field!r} in the file, which has id, title, colour: name "
        "one of these"
    )
    with pytest.raises(TextError) as trained:
        Pipeline(config, lambda line: None).fit()
    assert str(trained.value) == said
    lines: list[str] = []
    Pipeline(config, lines.append).prepare()  # which reads no texts
    assert f"warning: {said}" in lines


FAULTS: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "a bad row": (["user,item,time", "u1,i1,1", "u1,,2"], {}, "log.csv:3: no item"),
    "no column": (["who,item,time", "u1,i1,1"], {}, "no column 'user or user_id'"),
    "bytes": (["user,item,time", "u1,i\udce9,1"], {}, "log.csv:2: not UTF-8"),
    "dates": (["user,item,time", "u1,i1,12/1/2010"], {}, "time_format"),
    "items": (
        ["user,item,time", *ROWS],
        {"items": {"path": "items.csv", "fields": ["cover"]}},
        "cover",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("long", [False, True])
def test_a_fault_of_the_first_rows_is_told_as_prepare_tells_it(
    name: str, long: bool, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, dataset, wanted = FAULTS[name]
    text = "\n".join([*lines, *(ROWS * 9 if long else [])]) + "\n"
    Path("log.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    if long:
        first_rows_only(monkeypatch)
    config = config_of(bert, dataset=dataset)
    found = refusal(config)
    assert wanted in found
    with pytest.raises(DataError) as prepared:
        ingest_dataset(config.dataset, Path("cache"))
    assert str(prepared.value) == found


def test_of_a_long_file_only_the_first_rows_are_read(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_rows_only(monkeypatch)
    write("log.csv", ["user,item,time", *ROWS, "a row that is bad"])
    said = said_of(config_of(bert))
    assert "first rows of the log: 12 rows, 12 kept" in said
    assert "columns: user is user; item is item; time is time (" in said
    assert "items: first 7 rows of items.csv: title, colour; 7 of their ids" in said
    assert "without a text" not in said
    assert "log.csv, items.csv: looked at the first rows only" in said
    wrong = config_of(bert, text={"item_template": "{name}"})
    assert "text.item_template: no field 'name'" in refusal(wrong, TextError)
    write("items.csv", ["id,title,colour", ITEMS[0], "i1,,", *ITEMS[2:]])
    assert "the first rows of the log; 1 without a text" in said_of(config_of(bert))


@pytest.mark.parametrize("packed", [False, True])
def test_a_record_over_several_lines_is_not_cut(
    packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_rows_only(monkeypatch, 60)
    text = "id,title\n" + "".join(f'i{item},"Lamp\nof {item}"\n' for item in range(40))
    path = Path("items.csv.gz" if packed else "items.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    settings = DatasetSettings.model_validate(
        {"name": "x", "interactions": "log.csv", "items": str(path)}
    )
    read = first_rows.read_first_rows(settings)
    assert any("items: first 3 rows" in line for line in read.lines)
    assert read.columns["item"] == ["id", "title"]


def test_a_parquet_log_of_many_rows_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    import polars as pl

    rows = 70_000  # more than a batch
    frame = pl.DataFrame({"user": range(rows), "item": [1] * rows, "time": range(rows)})
    frame.write_parquet("log.parquet")
    settings = DatasetSettings.model_validate({"name": "x", "interactions": "log.parquet"})
    read = first_rows.read_first_rows(settings)
    assert read.longer == [Path("log.parquet")]
    assert "log: 65536 rows" in read.lines[0]


def test_a_language_model_is_looked_at_without_its_weights(bert: Path, tmp_path: Path) -> None:
    said = refusal(config_of(bert, text={"max_tokens": 200}), TextError)
    assert "text.max_tokens 200: the model has 128 positions" in said
    from safetensors.torch import load_file, save_file

    broken = make_bert(tmp_path / "broken")
    state = load_file(broken / "model.safetensors")
    save_file(
        {f"0.{k}": v for k, v in state.items()}, broken / "model.safetensors", {"format": "pt"}
    )
    said = refusal(config_of(broken), TextError)
    assert "has no tensor 'embeddings.LayerNorm.bias'" in said
    lightgcn = config_of(broken, variant="lightgcn", model={"kind": "lightgcn"})
    assert "LayerNorm" not in said_of(lightgcn)


def test_cuda_without_a_gpu_is_refused_before_anything_is_prepared(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(bert, scaling={"device": "cuda"})
    monkeypatch.setattr(device, "gpus_here", lambda: 0)
    said = refusal(config, ConfigError)
    assert said == "scaling.device: cuda: torch finds no GPU on this machine: set cpu or auto"
    with pytest.raises(ConfigError) as caught:
        Pipeline(config).fit()
    assert str(caught.value) == said
    assert not Path("cache").exists()
    monkeypatch.setattr(device, "gpus_here", lambda: 2)
    monkeypatch.setattr(device, "has_cuda", lambda: True)
    four = config_of(bert, scaling={"device": "cuda", "num_workers": 4})
    with pytest.raises(ConfigError, match="4 workers and 2 GPUs on this machine"):
        device.refuse_cuda_alone(four.scaling)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    device.refuse_cuda_alone(four.scaling)


def test_the_machine_is_looked_at(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(bert, run_dir="log.csv/runs")
    with pytest.raises(StoreError, match=r"log\.csv/runs: cannot be written .*log\.csv is a file"):
        machine.check_machine(config, 0)
    lines = machine.check_machine(config_of(bert), 1 << 60)
    assert any("warning: cache_dir cache" in line and "less than" in line for line in lines)
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    monkeypatch.setattr(cluster, "SHORT_FOLDER", str(tmp_path))
    assert any(
        "too long for Ray's sockets" in line for line in machine.check_machine(config_of(bert), 0)
    )
    monkeypatch.setattr(machine, "RAY_SHARE", 1e6)
    assert any("/dev/shm" in line for line in machine.check_machine(config_of(bert), 0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        with pytest.raises(ConfigError, match="this machine lets a process open 256 files"):
            machine.check_machine(config_of(bert, scaling={"num_workers": 200}), 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_is_to_be_fetched_is_said_and_not_looked_for() -> None:
    config = RunConfig.model_validate(
        {
            "fetch": ["ml-100k", "minilm"],
            "dataset": {"name": "m", "interactions": "data/ml-100k/interactions.tsv"},
        }
    )
    said = said_of(config)
    assert "ml-100k: not there yet" in said
    assert "minilm: not there yet" in said


@pytest.mark.parametrize("form", ["whole", "first rows", "one text"])
def test_a_run_that_reads_no_text_needs_no_language_model(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == "first rows":
        first_rows_only(monkeypatch)
    write("items.csv", ["id,title", *(f"i{item},Lamp" for item in range(12))])
    items = "items.csv" if form == "one text" else None
    said = said_of(config_of(Path("models/none"), dataset={"items": items}))
    assert ("first rows" in said) is (form == "first rows")
    write("items.csv", ["id,title", *(f"i{item},Lamp {item}" for item in range(12))])
    assert "no directory models/none" in refusal(config_of(Path("models/none")), TextError)


@pytest.mark.parametrize("form", ["whole", "first rows", "one text"])
def test_texts_alone_cannot_rank_where_no_two_differ(
    bert: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = {"items": None}
    if form == "one text":
        write("items.csv", ["id,title", *(f"i{item},Lamp" for item in range(12))])
        dataset = {}
    if form == "first rows":
        first_rows_only(monkeypatch)
    config = config_of(bert, dataset=dataset, variant="text_only")
    assert "no two differ here: name a file with texts" in refusal(config, ConfigError)


def test_words_about_users_that_no_model_reads_are_named(bert: Path) -> None:
    sexes = ["female" if user % 2 else "male" for user in range(9)]
    rows = (f"u{user},likes lamps,{sex}" for user, sex in enumerate(sexes))
    write("users.csv", ["id,bio,sex", *rows])
    dataset = {"users": "users.csv"}
    groups = {"users": ["sex"], "min_users": 2}
    config = config_of(bert, dataset=dataset, evaluation={"groups": groups})
    assert "user fields bio are not read: users' texts are their items'" in said_of(config)
    own = {"user_template": "{bio}"}
    config = config_of(bert, dataset=dataset, text=own, model={"text_layers": 0})
    assert "are not read" not in said_of(config)
