"""`init_config`: looks at files, and writes the config that a run on them needs.

Files stay where they are. Members of archives, and item files whose texts are in a column `id` that
is not theirs, are converted to Parquet, as a publisher's files are.
"""

from dataclasses import replace
from pathlib import Path

from recmind_dist.errors import DataError
from recmind_dist.ingest.guess.roles import roles_of
from recmind_dist.ingest.guess.samples import NULL, Sample, joined, sample
from recmind_dist.ingest.guess.tables import Answers, Roles, Texts, Unclear
from recmind_dist.ingest.importers import IMPORTERS, Importer, import_files, import_sources
from recmind_dist.ingest.importers.columns import Column, ident, instant, number, text, whole
from recmind_dist.ingest.importers.config_file import data_name, quoted
from recmind_dist.ingest.importers.delimited import Delimited
from recmind_dist.ingest.importers.importer import Kind
from recmind_dist.ingest.importers.json_lines import JsonLines
from recmind_dist.ingest.importers.sources import Source, sources_of
from recmind_dist.ingest.sources import expand
from recmind_dist.ingest.times import read_dates
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
    tables = _tables(roles)
    if all(one.plain for one in (roles.log.sample, *tables)) and not _hides_id(roles):
        return _write(folder, _config(roles, data_name(folder), files))
    if any(one.format == "parquet" for one in (roles.log.sample, *tables)):
        raise DataError(
            f"{roles.log.sample.source.name}: Parquet beside files that must be converted first: "
            "convert these to Parquet too"
        )
    if any(one.encoding == "utf-16" for one in (roles.log.sample, *tables)):
        raise DataError(
            f"{roles.log.sample.source.name}: UTF-16 beside files that must be converted first: "
            "save these as UTF-8"
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
    return said + [_letters(one) for one in (log, *_tables(roles)) if one.encoding != "utf-8"]


def _letters(one: Sample) -> str:
    """How a file that is not UTF-8 is read, with a text that shows it."""
    texts = one.frame.unpivot().get_column("value")
    example = texts.filter(texts.str.contains(r"[^\x00-\x7f]")).head(1).to_list()
    shown = f", as {example[0][:60]!r}" if example else ""
    return f"{one.source.name}: read as {one.encoding}{shown}: set encoding if that is wrong"


def _listed(roles: Roles) -> str:
    named = [f"{role} is {column}" for role, column in roles.columns.items()]
    return ", ".join(named) + (f" ({_time(roles)})" if "time" in roles.columns else "")


def _time(roles: Roles) -> str:
    unit = roles.log.facts[roles.columns["time"]].unit
    return f"times in {unit}" if unit else f"dates as {roles.time_format or 'numbers in order'}"


def _hides_id(roles: Roles) -> bool:
    """Whether texts are in a column `id` that is not the id, a name which the readers need."""
    tables = [texts for texts in (roles.items, roles.users) if texts is not None]
    return any("id" in texts.fields for texts in tables)


def _config(roles: Roles, name: str, named: list[Path]) -> str:
    """The YAML text for files that stay where they are.

    Args:
        named: files and folders on the command line.
    """
    columns = {r: roles.columns[r] for r in COLUMNS if r in roles.columns}
    log = roles.log.sample
    lines = [
        f"# Written by `{COMMAND}`: look it over. Paths: from where that was run.",
        f"run_dir: {quoted(f'runs/{name}')}",
        "dataset:",
        f"  name: {quoted(name)}",
        "  interactions:",
        f"    path: {_paths(log, named)}",
        f"    {_format(log)}",
    ]
    if log.format != "lightgcn":
        unit = f"  # {_time(roles)}" if "time" in columns else "  # no column of times"
        lines.append(f"    columns: {_mapping(columns, log.has_header)}{unit}")
    if roles.time_format is not None and not _is_known(roles):
        lines.append(f"    time_format: {quoted(roles.time_format)}")
    if any(one.has_nulls for one in (log, *_tables(roles))):
        lines.append(f"  missing: ['{NULL}']")
    for side, texts in (("items", roles.items), ("users", roles.users)):
        if texts is not None:
            lines.append(f"  {side}: {_table(texts, named)}")
    lines += [f"  # {remark}" for remark in _remarks(roles)]
    if roles.items is not None and roles.items.fields:
        template = quoted(_template(roles.items.fields))
        lines += ["fetch: [minilm]", f"text: {{model: models/minilm, item_template: {template}}}"]
    return "\n".join(lines) + "\n"


def _is_known(roles: Roles) -> bool:
    """Whether the readers know the dates without being told."""
    times = roles.log.sample.frame[roles.columns["time"]].str.strip_chars().drop_nulls()
    return not read_dates(times.filter(times != "")).has_nulls()


def _tables(roles: Roles) -> list[Sample]:
    return [texts.table.sample for texts in (roles.items, roles.users) if texts is not None]


def _paths(one: Sample, named: list[Path]) -> str:
    """One path, or a list: folders as they were named, if all in them belongs together."""
    left = [source.path for source in one.sources]
    paths = []
    for path in map(Path.expanduser, named):
        if path.is_dir() and set(inside := expand(path, "")) <= set(left):
            paths.append(path)
            left = [file for file in left if file not in inside]
    listed = [quoted(str(path)) for path in (*paths, *left)]
    return f"[{', '.join(listed)}]" if listed[1:] else listed[0]


def _format(one: Sample) -> str:
    """The keys that say how a file is read."""
    keys = [f"format: {one.format}"]
    if one.separator and one.separator != {"csv": ",", "tsv": "\t"}.get(one.format, "\t"):
        keys.append(f"separator: {quoted(one.separator)}")
    if not one.has_header:
        keys.append("has_header: false")
    if one.encoding != "utf-8":
        keys.append(f"encoding: {one.encoding}")
    if one.layout is not None and one.layout.escape is not None:
        keys.append(f"escape: {quoted(one.layout.escape)}")
    return "\n    ".join(keys)


def _mapping(columns: dict[str, str], has_header: bool) -> str:
    values = {k: quoted(v) if has_header else v for k, v in columns.items()}
    return "{" + ", ".join(f"{role}: {value}" for role, value in values.items()) + "}"


def _table(texts: Texts, named: list[Path]) -> str:
    one = texts.table.sample
    names = [texts.id, *texts.fields]
    identity, *fields = map(quoted, names) if one.has_header else names
    keys = [f"path: {_paths(one, named)}", *_format(one).split("\n    "), f"id: {identity}"]
    keys += [f"fields: [{', '.join(fields)}]"] if fields else []
    keys += [] if texts.table.facts[texts.id].is_unique else ["repeats: first"]
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
