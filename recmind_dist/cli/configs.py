"""`recmind configs`: the configs that come with the package."""

import re
from importlib.resources import as_file, files
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import typer

from recmind_dist.cli.app import Json, app, say, show, show_json
from recmind_dist.errors import ConfigError

configs = typer.Typer(
    no_args_is_help=True, help="Lists the configs that come with the package, and copies one."
)
app.add_typer(configs, name="configs")


@configs.command("list")
def list_(as_json: Json = False) -> None:
    """Lists names, each with what its file says first. `recmind tune` varies what spaces/… name."""
    found = {name: _about(text) for name, text in _texts().items()}
    if as_json:
        show_json(found)
        return
    width = max(map(len, found))
    for name, about in found.items():
        show(f"{name:{width}}  {about}")


@configs.command()
def copy(
    name: Annotated[str, typer.Argument(help="as listed", show_default=False)],
    to: Annotated[Path | None, typer.Option(help="file to write [NAME.yaml]")] = None,
) -> None:
    """Copies a config, to be changed and run."""
    texts = _texts()
    if name not in texts:
        raise ConfigError(f"{name}: no such config: choose {', '.join(texts)}")
    path = to or Path(f"{name}.yaml")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(texts[name])
    except FileExistsError as error:
        raise ConfigError(f"{path}: is there already: give another name by --to") from error
    say(f"{path}: written; next: recmind {'tune' if '/' in name else 'run'} {path}")


def _texts() -> dict[str, str]:
    with as_file(files("recmind_dist.configs")) as home:
        found = sorted(home.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
        return {
            str(path.relative_to(home).with_suffix("")): path.read_text(encoding="utf-8")
            for path in found
        }


def _about(text: str) -> str:
    """What the comment on top of a config says, up to its first stop."""
    lines = takewhile(lambda line: line.startswith("#"), text.splitlines())
    return re.split(r"[.:;](?= |$)", " ".join(line[1:].strip() for line in lines))[0]
