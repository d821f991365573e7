"""`recmind info` and `recmind schema`: what is installed, and what a config may hold."""

from typing import TYPE_CHECKING

from recmind_dist.cli.app import Json, app, show, show_json

if TYPE_CHECKING:
    from collections.abc import Mapping


@app.command()
def info(as_json: Json = False) -> None:
    """Prints versions, devices, kernels in use, and what is missing and what that costs."""
    from recmind_dist.doctor.installation import installation

    found = installation()
    if as_json:
        show_json(found.to_json())
        return
    _section("versions", found.versions)
    show("devices")
    for device in found.devices:
        show(f"  {device}")
    _section("kernels", found.kernels)
    _section("missing", found.missing)


@app.command()
def schema() -> None:
    """Prints the JSON Schema of a config, for editors."""
    from recmind_dist.run_config.json_schema import config_schema

    show_json(config_schema())


def _section(title: str, rows: "Mapping[str, str]") -> None:
    if not rows:
        return
    show(title)
    width = max(map(len, rows))
    for name, value in rows.items():
        show(f"  {name:{width}}  {value}")
