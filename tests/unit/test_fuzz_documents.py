"""Any text as a config, an override or a manifest: settings come out, or one sentence does."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import Field

from recmind_dist.config import Settings, dump_yaml, resolve_settings
from recmind_dist.config.yaml import Document, load_yaml, parse_yaml
from recmind_dist.errors import ConfigError, StoreError
from recmind_dist.storage import (
    read_json,
    read_manifest,
    verify_manifest,
    write_json,
    write_manifest,
)

quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Group(Settings):
    rate: float = 0.5
    names: list[str] = Field(default=[])


class Whole(Settings):
    name: str = "x"
    count: int | None = None
    flag: bool = False
    group: Group = Group()
    more: dict[str, float] = Field(default={})


PIECES = st.sampled_from(
    [
        "name",
        "count",
        "flag",
        "group",
        "rate",
        "names",
        "more",
        ": ",
        ":",
        "\n",
        "\n  ",
        "\n    ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        '"',
        "'",
        "#",
        " #",
        "&a",
        "*a",
        "!",
        "!!",
        "!!int ",
        "!!bool x",
        "!<x>",
        "|",
        ">",
        "|2",
        "?",
        "? ",
        "---",
        "...",
        "%YAML 1.1\n",
        "%TAG ! x\n",
        "<<",
        "~",
        "null",
        "true",
        "off",
        "1",
        "-1",
        "1e999",
        ".nan",
        ".inf",
        "._",
        "0x" + "F" * 50,
        "0o9",
        "9" * 50,
        "1_0",
        "1:2",
        "2020-01-01",
        "2020-99-99",
        "\t",
        "\r",
        "\x00",
        "\x07",
        "\ufeff",
        "\\ud800",
        "\\x",
        "\u2028",
        "é",
        "=",
        "@",
        "`",
        "*",
        "\\",
    ]
)
TEXTS = st.one_of(
    st.lists(PIECES, max_size=14).map("".join),
    st.builds(
        "{}: {}".format,
        st.sampled_from(list(Whole.model_fields)),
        st.lists(PIECES, max_size=6).map("".join),
    ),
    st.text(max_size=30),
)
KEYS = st.lists(
    st.sampled_from(["name", "count", "group", "rate", "names", "more", "a", ""]),
    min_size=1,
    max_size=4,
)
WORDS = st.one_of(st.builds("{}={}".format, KEYS.map(".".join), TEXTS), TEXTS)


def must_be_sentences(error: Exception, start: str) -> None:
    """Each fault is a line of its own, and each says where."""
    assert all(line.startswith(start) for line in str(error).split("\n"))
    str(error).encode("utf-8", "backslashreplace")


def write_again(found: Settings) -> None:
    """What was read can be written, and is then read as the same."""
    values = found.model_dump(mode="json")
    assert parse_yaml(dump_yaml(values), "again").values == values


@settings(quick, max_examples=200)
@given(text=TEXTS)
@example(text="name: y\ncount: 1\ngroup: {names: [a, b]}\n")
def test_any_text_is_a_config_or_sentences_that_name_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = resolve_settings(Whole, load_yaml(path))
    except ConfigError as error:
        must_be_sentences(error, str(path))
        return
    write_again(found)


@settings(quick, max_examples=200)
@given(words=st.lists(WORDS, min_size=1, max_size=3))
@example(words=["\n="])
@example(words=["name=y", "group.rate=1.5"])
def test_any_words_are_overrides_or_sentences_that_name_them(words: list[str]) -> None:
    try:
        found = resolve_settings(Whole, Document("c.yaml", {}), words)
    except ConfigError as error:
        must_be_sentences(error, "override ")
        return
    write_again(found)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just("../x")
    | st.just("/etc/x"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
FILES = st.dictionaries(
    st.sampled_from(
        [
            "a",
            "b/c",
            "",
            ".",
            "..",
            "../a",
            "/etc/passwd",
            "a/../a",
            "x" * 300,
            "a\0",
            "\ud800",
            "link",
            "b",
        ]
    ),
    st.fixed_dictionaries({"bytes": JSON | st.just(1), "sha256": JSON}) | JSON,
    max_size=3,
)


def must_be_damaged_or_sound(directory: Path) -> bool:
    """Reads and verifies; a refusal is one sentence that names the directory."""
    try:
        verify_manifest(directory, read_manifest(directory, "toy", 1))
    except StoreError as error:
        assert_names(directory, error)
        return False
    return True


def assert_names(directory: Path, error: StoreError) -> None:
    assert str(error).startswith(str(directory))
    assert "\n" not in str(error).removeprefix(str(directory))


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A directory with a manifest, and a link that leads out of it."""
    home = tmp_path / "toy"
    (home / "b").mkdir(parents=True)
    (home / "a").write_bytes(b"a")
    (home / "b" / "c").write_bytes(b"c")
    write_manifest(home, "toy", 1, {})
    (tmp_path / "secret").write_bytes(b"s")
    (home / "link").symlink_to(tmp_path / "secret")
    return home


@quick
@given(
    files=FILES, more=st.dictionaries(st.sampled_from(["kind", "schema", "x"]), JSON, max_size=2)
)
def test_any_manifest_is_verified_or_refused(
    toy: Path, files: dict[str, Any], more: dict[str, Any]
) -> None:
    manifest = {"kind": "toy", "schema": 1, **more, "files": files}
    (toy / "manifest.json").write_text(json.dumps(manifest))
    if must_be_damaged_or_sound(toy):
        assert set(files) <= {"a", "b/c", "a/../a"}, "nothing else can be verified"


@quick
@given(place=st.integers(0, 400), value=st.integers(0, 255))
def test_a_changed_byte_of_a_manifest_is_seen_or_changes_nothing(
    toy: Path, place: int, value: int
) -> None:
    path = toy / "manifest.json"
    sound = path.read_bytes()
    meant = json.loads(sound)
    data = bytearray(sound)
    data[place % len(data)] = value
    path.write_bytes(data)
    try:
        if must_be_damaged_or_sound(toy):
            found = json.loads(data)
            assert found["files"] == meant["files"]
    finally:
        path.write_bytes(sound)


@quick
@given(value=JSON)
def test_what_is_read_can_be_written(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(value))
    try:
        found = read_json(path)
    except StoreError as error:
        assert_names(path, error)
        return
    if "NaN" not in path.read_text() and "Infinity" not in path.read_text():
        write_json(path, found)
        assert read_json(path) == value
