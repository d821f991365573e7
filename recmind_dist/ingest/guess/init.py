"""`init_config`: looks at files, and writes the config that a run on them needs.

Files that the readers take as they are stay where they are. Others (compressed, in archives, Python
dicts, Latin-1, dates of another format, items that stand twice) are converted to Parquet, as a
publisher's files are.
"""

from dataclasses import replace
from pathlib import Path

from recmind_dist.errors import DataError
from recmind_dist.ingest.guess.facts import KNOWN_DATES
from recmind_dist.ingest.guess.roles import Answers, Roles, Texts, Unclear, roles_of
from recmind_dist.ingest.guess.samples import Sample, joined, sample
from recmind_dist.ingest.importers import IMPORTERS, Importer, import_files, import_sources
from recmind_dist.ingest.importers.columns import Column, ident, instant, number, text, whole
from recmind_dist.ingest.importers.config_file import data_name, quoted
from recmind_dist.ingest.importers.delimited import Delimited
from recmind_dist.ingest.importers.importer import Kind
from recmind_dist.ingest.importers.json_lines import JsonLines
from recmind_dist.ingest.importers.sources import Source, sources_of
from recmind_dist.storage import write_bytes
from recmind_dist.types import Say

COMMAND = "recmind init"
COLUMNS: tuple[str, ...] = ("user", "item", "time")  # of the log, as the config has them
IN_TEMPLATE = 3  # fields of an item's text

__all__ = ["Answers", "Unclear", "init_config"]


def init_config(
    files: list[Path], to: Path | None, answers: Answers, max_bad_rows: int, say: Say
) -> Path:
    """Writes `to`/config.yaml, of at most fifteen lines.

    Args:
        to: absent or empty; None: data/ and the name of the first file's folder or of the log.
        answers: to questions of earlier tries.
        max_bad_rows: malformed rows that may be set aside where files are converted.

    Raises:
        Unclear: something is open; `Answers` has a place for it.
        DataError: the files are of no known layout, or do not go together.
    """
    sources = sources_of(files)
    importer = None if answers != Answers() else _publisher(sources)
    if importer is not None:
        say(f"these are files of {importer.title}: as by `recmind import {importer.name}`")
        return import_files(importer, files, to or Path("data") / importer.name, max_bad_rows, say)
    samples = joined([sample(source) for source in sources if _is_looked_at(source)])
    roles = roles_of(samples, answers)
    folder = to or Path("data") / data_name(Path(roles.log.sample.stem))
    for line in _findings(roles):
        say(line)
    tables = [t.table.sample for t in (roles.items, roles.users) if t is not None]
    if all(map(_is_read_as_it_is, (roles.log.sample, *tables))) and not _must_convert(roles):
        return _write(folder, _config(roles, data_name(folder)))
    if any(one.format == "parquet" for one in (roles.log.sample, *tables)):
        raise DataError(
            f"{roles.log.sample.source.name}: Parquet beside files that must be converted first: "
            "convert these to Parquet too"
        )
    say("the readers do not take them as they are: converted to Parquet")
    importer, pairs = _importer(roles)
    return import_sources(importer, pairs, folder, max_bad_rows, say)


def _publisher(sources: list[Source]) -> Importer | None:
    """The importer that knows all files that were named, a log among them."""
    for importer in IMPORTERS.values():
        kinds = [(source, importer.kind_of(source)) for source in sources]
        known = [kind for _, kind in kinds if kind is not None]
        strangers = [source for source, kind in kinds if kind is None and not source.searched]
        if not strangers and any(kind.interactions for kind in known):
            return importer
    return None


def _is_looked_at(source: Source) -> bool:
    """Whether a file was named, or looks like data in a folder that was."""
    name = (source.member or source.path.name).lower()
    return not source.searched or not name.endswith((".md", ".pdf", ".html", "readme.txt", ".yaml"))


def _findings(roles: Roles) -> list[str]:
    """What was found, for people."""
    log = roles.log.sample
    said = [f"{log.source.name}: the log ({log.format}): {_listed(roles)}"]
    if "time" not in roles.columns:
        said.append(f"{log.source.name}: no column of times: what is held out of users is drawn")
    for side, texts in (("items", roles.items), ("users", roles.users)):
        if texts is not None:
            fields = ", ".join(texts.fields) or "no texts"
            said.append(f"{texts.table.sample.source.name}: {side}: id {texts.id}; {fields}")
    return said


def _listed(roles: Roles) -> str:
    named = [f"{role} is {column}" for role, column in roles.columns.items()]
    return ", ".join(named) + (f" ({_time(roles)})" if "time" in roles.columns else "")


def _time(roles: Roles) -> str:
    unit = roles.log.facts[roles.columns["time"]].unit
    return f"times in {unit}" if unit else f"dates as {roles.time_format or 'numbers in order'}"


def _is_read_as_it_is(one: Sample) -> bool:
    """Whether the readers take a file without conversion."""
    return one.plain and one.format != "python"


def _must_convert(roles: Roles) -> bool:
    """Whether times, ids or headers are such that only a conversion makes them readable."""
    if roles.time_format is not None and roles.time_format not in KNOWN_DATES:
        return True
    for texts in (roles.items, roles.users):
        if texts is None:
            continue
        sample = texts.table.sample
        if not sample.has_header or not texts.table.facts[texts.id].is_unique:
            return True
    return False


def _config(roles: Roles, name: str) -> str:
    """The YAML text for files that stay where they are."""
    columns = {r: roles.columns[r] for r in COLUMNS if r in roles.columns}
    log = roles.log.sample
    lines = [
        f"# Written by `{COMMAND}`: look it over. Paths: from where that was run.",
        f"run_dir: {quoted(f'runs/{name}')}",
        "dataset:",
        f"  name: {quoted(name)}",
        "  interactions:",
        f"    path: {_paths(log)}",
        f"    {_format(log)}",
    ]
    if log.format != "lightgcn":
        unit = f"  # {_time(roles)}" if "time" in columns else "  # no column of times"
        lines.append(f"    columns: {_mapping(columns, log.has_header)}{unit}")
    for side, texts in (("items", roles.items), ("users", roles.users)):
        if texts is not None:
            lines.append(f"  {side}: {_table(texts)}")
    lines += [f"  # {remark}" for remark in _remarks(roles)]
    if roles.items is not None and roles.items.fields:
        template = quoted(_template(roles.items.fields))
        lines += ["fetch: [minilm]", f"text: {{model: models/minilm, item_template: {template}}}"]
    return "\n".join(lines) + "\n"


def _paths(one: Sample) -> str:
    """One path, or a list."""
    paths = [quoted(str(source.path)) for source in one.sources]
    return f"[{', '.join(paths)}]" if paths[1:] else paths[0]


def _format(one: Sample) -> str:
    """The keys that say how a file is read."""
    keys = [f"format: {one.format}"]
    if one.separator and one.separator != {"csv": ",", "tsv": "\t"}.get(one.format, "\t"):
        keys.append(f"separator: {quoted(one.separator)}")
    if not one.has_header:
        keys.append("has_header: false")
    return "\n    ".join(keys)


def _mapping(columns: dict[str, str], has_header: bool) -> str:
    values = {k: quoted(v) if has_header else v for k, v in columns.items()}
    return "{" + ", ".join(f"{role}: {value}" for role, value in values.items()) + "}"


def _table(texts: Texts) -> str:
    one = texts.table.sample
    fields = ", ".join(map(quoted, texts.fields))
    keys = [f"path: {quoted(str(one.source.path))}", *_format(one).split("\n    ")]
    keys += [f"id: {quoted(texts.id)}", *([f"fields: [{fields}]"] if fields else [])]
    return "{" + ", ".join(keys) + "}"


def _template(fields: list[str]) -> str:
    return ". ".join(f"{{{name}}}" for name in fields[:IN_TEMPLATE])


def _remarks(roles: Roles, converted: bool = False) -> list[str]:
    """What is worth setting.

    Args:
        converted: columns have the names of the roles.
    """
    remarks = []
    if (rating := roles.columns.get("rating")) is not None:
        one = roles.log.facts[rating]
        assert one.low is not None
        assert one.high is not None
        named = "" if converted or rating == "rating" else f" with columns.rating: {quoted(rating)}"
        least = round(one.low + 0.75 * (one.high - one.low))
        remarks.append(
            f"min_rating: {least}  #{named} drops rows below ({one.low:g} to {one.high:g})"
        )
    if (event := roles.columns.get("event")) is not None:
        values = sorted(roles.log.values(event))
        name = "event" if converted else event
        kept = ", ".join(map(quoted, values[:5]))
        remarks.append(f"keep: {{{quoted(name)}: [{kept}]}}  # unset: rows of every {name} count")
    return remarks


def _write(folder: Path, text: str) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists and is not empty: name another directory with --to")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    write_bytes(path, text.encode())
    return path


def _importer(roles: Roles) -> tuple[Importer, list[tuple[Source, Kind]]]:
    """What converts files of this layout, and the files with their kinds."""
    log = Kind("log", _layout(roles.log.sample, _log_columns(roles)), _log_columns(roles))
    pairs = [(source, log) for source in roles.log.sample.sources]
    template = ""
    for side, texts in (("items", roles.items), ("users", roles.users)):
        if texts is None:
            continue
        names = _safe(texts.fields)
        columns = (ident("id", texts.id), *(text(new, old) for old, new in names.items()))
        layout = _layout(texts.table.sample, columns)
        kind = Kind(side, layout, items=columns if side == "items" else ())
        kind = replace(kind, users=columns if side == "users" else ())
        pairs += [(source, kind) for source in texts.table.sample.sources]
        if side == "items" and names:
            template = _template(list(names.values()))
    remarks = tuple(_remarks(roles, converted=True))
    kinds = tuple(dict.fromkeys(kind for _, kind in pairs))
    return Importer("init", "Files", kinds, template, remarks, by=COMMAND), pairs


def _safe(fields: list[str]) -> dict[str, str]:
    """Names there → names that templates can hold."""
    return {name: f"field_{name}" if name == "id" or name.isdigit() else name for name in fields}


def _log_columns(roles: Roles) -> tuple[Column, ...]:
    found = [ident("user", roles.columns["user"]), ident("item", roles.columns["item"])]
    if (time := roles.columns.get("time")) is not None:
        if roles.time_format is not None:
            found.append(instant("time", time, roles.time_format))
        elif roles.log.facts[time].is_whole:
            found.append(whole("time", time))
        else:
            found.append(replace(number("time", time), needed=True))
    if (rating := roles.columns.get("rating")) is not None:
        found.append(number("rating", rating))
    if (event := roles.columns.get("event")) is not None:
        found.append(text("event", event))
    return tuple(found)


def _layout(one: Sample, columns: tuple[Column, ...]) -> JsonLines | Delimited:
    """How a file is read for these columns."""
    if one.format in ("jsonl", "python"):
        ids, texts = _sources(columns, "id"), _sources(columns, "text")
        plain = tuple(s for c in columns if c.reads not in ("id", "text") for s in c.sources)
        return JsonLines(ids, ids, plain, texts, python=one.format == "python")
    if one.layout is None:
        raise DataError(f"{one.source.name}: {one.format} files are not converted: unpack it first")
    return one.layout


def _sources(columns: tuple[Column, ...], reads: str) -> tuple[str, ...]:
    return tuple(source for c in columns if c.reads == reads for source in c.sources)
