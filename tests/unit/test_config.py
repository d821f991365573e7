"""YAML read as written, faults that name file, line and key, and nothing that could be executed or
exhaust us.
"""

from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator

from recmind_dist.config import Settings, dump_yaml, load_settings, resolve_settings
from recmind_dist.config.yaml import load_yaml, parse_yaml
from recmind_dist.errors import ConfigError


class Sampler(Settings):
    fanout: tuple[int, ...] = (10, 5)
    rate: float = 0.5


class Whole(Settings):
    name: str
    layers: int = Field(default=2, ge=1)
    sampler: Sampler = Sampler()

    @model_validator(mode="after")
    def _hops(self) -> "Whole":
        if len(self.sampler.fanout) != self.layers:
            raise ValueError(
                f"sampler.fanout has {len(self.sampler.fanout)} hops, layers is {self.layers}: "
                "give one a layer"
            )
        return self


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


def test_values_are_what_they_look_like() -> None:
    text = "a: 1e-3\nb: off\nc: 'off'\nd: yes\ne: true\nf: ~\ng: 010\nh: [1, x]\ni: 1.5"
    assert parse_yaml(text, "c").values == {
        "a": 0.001,
        "b": "off",
        "c": "off",
        "d": "yes",
        "e": True,
        "f": None,
        "g": 10,
        "h": [1, "x"],
        "i": 1.5,
    }


def test_a_file_and_overrides_become_settings(tmp_path: Path) -> None:
    path = write(tmp_path, "name: x\nsampler:\n  fanout: [10, 5]\n")
    words = ["sampler.rate=1e-2", "layers=3", "sampler.fanout=[1,2,3]", "name=a=b"]
    found = load_settings(Whole, path, words)
    assert found == Whole(name="a=b", layers=3, sampler=Sampler(fanout=(1, 2, 3), rate=0.01))


def test_overrides_do_not_change_the_document(tmp_path: Path) -> None:
    document = load_yaml(write(tmp_path, "name: x\nsampler:\n  rate: 0.5\n"))
    assert resolve_settings(Whole, document, ["sampler.rate=0.75"]).sampler.rate == 0.75
    assert resolve_settings(Whole, document).sampler.rate == 0.5


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: x\nlayres: 2\n", "c.yaml:2: layres: unknown key"),
        ("name: x\nsampler:\n  rate: fast\n", "c.yaml:3: sampler.rate: .*number.*got 'fast'"),
        ("name: x\nsampler:\n  fanout:\n    - 1\n    - two\n", "c.yaml:5: sampler.fanout.1"),
        ("layers: 2\n", "name: missing"),
        ("name: x\nlayers: 3\n", "sampler.fanout has 2 hops, layers is 3"),
        ("name: x\nname: y\n", "c.yaml:2: key 'name' stands twice"),
        ("name: x\nsampler:\n  rate: .nan\n", "c.yaml:3: sampler.rate: .*finite"),
        ("name: [x\n", "c.yaml:2: not YAML"),
        ("- x\n", "c.yaml:1: a config is a mapping"),
        ("name: 2020-01-01\n", "put it in quotes"),
        ("1: x\n", "c.yaml:1: key 1 is not text"),
        ("name: &a x\n", "c.yaml:1: anchors and aliases"),
        ("a: &a [x, x]\nb: [*a, *a]\n", "c.yaml:1: anchors and aliases"),
        ("<<: {name: x}\n", "c.yaml:1: tag .*merge"),
        ("%YAML 1.1\n---\nname: off\n", "c.yaml:.*directives are not read"),
        ("name: !!python/object/apply:os.system ['true']\n", "c.yaml:1: tag .* is not read"),
        ("name: !include /etc/passwd\n", "c.yaml:1: tag .* is not read"),
        ("a: " + "[" * 3000, "c.yaml:1: nested more than 32 deep"),
        ("? " * 3000 + "a", "c.yaml:1: nested more than 32 deep"),
        ("\n".join(" " * i + "a:" for i in range(250)), "c.yaml:33: nested more than 32 deep"),
        ("name: x\n---\nname: y\n", "another document"),
    ],
)
def test_faults_name_file_line_and_key(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as error:
        load_settings(Whole, write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_brackets_in_comments_and_texts_are_no_depth() -> None:
    assert parse_yaml("# " + "[" * 99 + "\na: '" + "{" * 99 + "'\n", "c").values == {"a": "{" * 99}


@pytest.mark.parametrize(
    ("text", "words", "sentence"),
    [
        (
            "name: x\nsampler:\n  speed: 3\n",
            [],
            "c.yaml:3: sampler.speed was removed: use sampler.rate",
        ),
        (
            "name: x\n",
            ["sampler.speed=3"],
            "override 'sampler.speed=3': sampler.speed was removed: use sampler.rate",
        ),
        (
            "name: x\nother:\n  deep: {er: 1}\n",
            [],
            "c.yaml:2: other was removed: nothing replaces it",
        ),
        ("name: x\nkinds: [new, old]\n", [], "c.yaml:2: kinds: old was removed: write new"),
    ],
)
def test_a_deleted_key_or_value_is_refused_with_its_replacement(
    tmp_path: Path, text: str, words: list[str], sentence: str
) -> None:
    class Now(Whole):
        kinds: tuple[Literal["new"], ...] = ()

    deleted = {
        "sampler.speed": "use sampler.rate",
        "other": "nothing replaces it",
        "kinds: old": "write new",
    }
    with pytest.raises(ConfigError) as error:
        resolve_settings(Now, load_yaml(write(tmp_path, text)), words, deleted)
    assert str(error.value).removeprefix(f"{tmp_path}/") == sentence


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(Whole, write(tmp_path, "name: x\nlayers: 0\nother: 1\n"))
    assert [line.split(": ")[1] for line in str(error.value).splitlines()] == ["layers", "other"]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("layers", "write key.sub=value"),
        ("a..b=1", "write key.sub=value"),
        ("layers=many", "override 'layers=many': layers"),
        ("name.x=1", "'name' is a value, not a group"),
        ("sampler.speed=1", "override 'sampler.speed=1': sampler.speed: unknown key"),
        ("layers=[", "override 'layers=\\['.*not YAML"),
    ],
)
def test_a_faulty_override_is_named(tmp_path: Path, word: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_settings(Whole, write(tmp_path, "name: x\n"), [word])


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    (tmp_path / "large.yaml").write_bytes(b"#" * (1 << 20) + b"\n")
    for name, sentence in (
        ("latin", "byte 9 is not UTF-8"),
        ("large", "a config is at most"),
        ("none", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            load_yaml(tmp_path / f"{name}.yaml")


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(blacklist_categories=["Cs", "Cc", "Cn", "Co"]), max_size=12),
    st.sampled_from(["1e-3", "off", "null", "~", "0x1", "1_000", "2020-01-01", "=", "<<"]),
    st.sampled_from(["- a", "a: b", "# a", "", " x ", "a\nb"]),
)
names = st.text("abcdef", min_size=1, max_size=3)
nested = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=2),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(names, nested, max_size=3))
def test_what_is_dumped_is_read_back(values: dict[str, Any]) -> None:
    back = parse_yaml(dump_yaml(values), "c").values
    assert back == values
    assert repr(back) == repr(values)  # types too: 1.0 is not 1
