"""`recmind doctor`: examines a run, and repairs it."""

from typing import TYPE_CHECKING, Annotated

import typer

from recmind_dist.cli.app import Json, Run, app, aside, say, show, show_json
from recmind_dist.errors import StoreError

if TYPE_CHECKING:
    from recmind_dist.doctor.examine import Examination


@app.command()
def doctor(
    run_dir: Run,
    repair: Annotated[
        bool, typer.Option("--repair", help="mend what can be mended, then examine again")
    ] = False,
    as_json: Json = False,
) -> None:
    """Verifies every file of a run and of its inputs; exit code 2 if something is damaged."""
    from recmind_dist.doctor.examine import examine
    from recmind_dist.doctor.repair import repair as mend

    found = mend(run_dir, aside if as_json else say) if repair else examine(run_dir)
    if as_json:
        damaged = [{**vars(one), "remedy": one.remedy} for one in found.findings]
        show_json({"damaged": damaged, "good": found.sound, "notes": found.notes})
    else:
        _print(found)
    if found.findings:
        counts = f"{len(found.findings)} parts damaged, {len(found.sound)} good"
        remedy = f"run `recmind doctor {run_dir} --repair`"
        if repair:
            remedy = "what is left needs the remedy named above"
        raise StoreError(f"{run_dir}: {counts}: {remedy}")
    if not as_json:
        say(f"{run_dir}: all {len(found.sound)} parts are good")


def _print(found: "Examination") -> None:
    for line in found.sound:
        say(f"good     {line}")
    for line in found.notes:
        say(f"note     {line}")
    for finding in found.findings:
        show(f"DAMAGED  {finding.part}: {finding.fault}")
        show(f"         {finding.remedy}")
