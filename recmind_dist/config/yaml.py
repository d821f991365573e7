"""YAML 1.2 by ruamel.yaml, which reads `1e-3` as a number and keeps the line of each key."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, DocumentStartEvent
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from recmind_dist.errors import ConfigError

MAX_BYTES = 1 << 17
MAX_DEPTH = 32
MAX_EVENTS = 20_000  # about one a key, value or bracket; parsing them takes two seconds
MAX_DIGITS = 40
KeyPath = tuple[str | int, ...]
_REFUSED_TAGS = ("binary", "set", "omap", "pairs", "merge", "value")


@dataclass(frozen=True)
class Document:
    """A parsed file: plain values, and the line of each key path."""

    source: str
    values: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """`file:line` of a key, or of its nearest parent in the file."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return f"{self.source}:{self.lines[path[:end]]}"
        return self.source


def load_yaml(path: Path) -> Document:
    """Reads a mapping. Raises ConfigError with file and line for anything but plain data."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # pipes may never end
            raise ConfigError(f"{path}: not a plain file: give the path of a YAML file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}): give the path of a YAML file"
        ) from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: more than {MAX_BYTES} bytes: a config is at most that long")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: byte {error.start} is not UTF-8: save the file as UTF-8"
        ) from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Document:
    """Parses YAML text. Raises ConfigError, as `load_yaml`."""
    try:
        _refuse_excess(text, source)
        _refuse_tags(YAML(typ="safe", pure=True).compose(io.StringIO(text)), source)
        # the round-trip reader builds plain data only, and refuses duplicate keys
        tree = YAML(typ="rt", pure=True).load(text)
    except ConfigError:
        raise
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        if not isinstance(error, DuplicateKeyError):
            raise ConfigError(f"{source}:{line}: not YAML: {error.problem}") from error
        key = re.search(r'duplicate key "(.*?)"', str(error.problem))
        raise ConfigError(
            f"{source}:{line}: key {key.group(1) if key else '?'!r} stands twice: remove one"
        ) from error
    except (YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: not YAML: {str(error).splitlines()[0]}") from error
    except (LookupError, TypeError, AttributeError, AssertionError, NotImplementedError) as error:
        # defects of the library, found by fuzzing: odd comments, tags and line ends
        raise ConfigError(
            f"{source}: not YAML that can be read ({str(error)[:80]!r}): write it more simply"
        ) from error
    if tree is None:
        tree = CommentedMap()
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{source}:1: a config is a mapping of keys to values")
    lines: dict[KeyPath, int] = {}
    return Document(source, _plain(tree, (), lines, source), lines)


def dump_yaml(values: dict[str, Any]) -> str:
    """Plain data as YAML text, keys in the order given."""
    writer = YAML()
    writer.default_flow_style = False
    out = io.StringIO()
    writer.dump(values, out)
    return out.getvalue()


def _refuse_excess(text: str, source: str) -> None:
    """Refuses what is too large or too deep by events, since composing could exhaust the stack."""
    depth = 0
    for count, event in enumerate(YAML(typ="safe", pure=True).parse(io.StringIO(text))):
        line = event.start_mark.line + 1
        if count > MAX_EVENTS:
            raise ConfigError(
                f"{source}:{line}: more than {MAX_EVENTS} keys and values: not a config"
            )
        if getattr(event, "tag", None) is not None:
            raise ConfigError(
                f"{source}:{line}: tag {str(event.tag)[:80]!r} is not read: give plain data"
            )
        if isinstance(event, DocumentStartEvent) and event.version is not None:
            raise ConfigError(f"{source}:{line}: %YAML directives are not read: remove the line")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{source}:{line}: nested more than {MAX_DEPTH} deep")


def _refuse_tags(node: Node | None, source: str) -> None:
    if node is None:
        return
    line, tag = node.start_mark.line + 1, str(node.tag)
    if node.anchor is not None:
        raise ConfigError(f"{source}:{line}: anchors and aliases are not read: write the value out")
    name = tag.removeprefix("tag:yaml.org,2002:")
    if name == tag or "python" in name or name.endswith(_REFUSED_TAGS):
        raise ConfigError(f"{source}:{line}: tag {tag!r} is not read: give plain data")
    if isinstance(node, MappingNode):
        for key, value in node.value:
            _refuse_tags(key, source)
            _refuse_tags(value, source)
    elif isinstance(node, SequenceNode):
        for value in node.value:
            _refuse_tags(value, source)


def _plain(tree: Any, path: KeyPath, lines: dict[KeyPath, int], source: str) -> Any:
    """Plain data of ruamel's tree; adds the line of each key to `lines`."""
    if isinstance(tree, CommentedMap):
        out = {}
        for key, value in tree.items():
            if not isinstance(key, str):
                raise ConfigError(
                    f"{source}:{tree.lc.key(key)[0] + 1}: key {key!r} is not text: put it in quotes"
                )
            lines[(*path, key)] = tree.lc.key(key)[0] + 1
            out[key] = _plain(value, (*path, key), lines, source)
        return out
    if isinstance(tree, CommentedSeq):
        for i in range(len(tree)):
            lines[(*path, i)] = tree.lc.item(i)[0] + 1
        return [_plain(value, (*path, i), lines, source) for i, value in enumerate(tree)]
    if isinstance(tree, bool) or tree is None:
        return tree
    where = f"{source}:{lines.get(path, 1)}: {'.'.join(map(str, path))}"
    if isinstance(tree, str) and any("\ud800" <= letter <= "\udfff" for letter in tree):
        raise ConfigError(
            f"{where}: the text holds half a surrogate pair, which no file can: write the letter "
            "itself"
        )
    if isinstance(tree, int) and abs(tree) >= 10**MAX_DIGITS:
        raise ConfigError(f"{where}: a number of more than {MAX_DIGITS} digits: put it in quotes")
    for kind in (int, float, str):
        if isinstance(tree, kind):
            return kind(tree)
    raise ConfigError(
        f"{where}: value {str(tree)[:80]!r} is no number, text, list or mapping: put it in quotes"
    )
