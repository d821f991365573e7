"""`recmind doctor`: is a run what it says it is, and what can be done where it is not."""

from typing import Annotated

import typer

from recmind_dist.cli.app import Run, app, say
from recmind_dist.errors import StoreError


@app.command()
def doctor(
    run_dir: Run,
    repair: Annotated[
        bool, typer.Option("--repair", help="mend what can be mended, then examine again")
    ] = False,
) -> None:
    """Verifies every file of a run and the stores it was made from; exit code 2 if something is
    damaged.
    """
    from recmind_dist.doctor.examine import examine
    from recmind_dist.doctor.repair import repair as mend

    found = mend(run_dir, say) if repair else examine(run_dir)
    for line in found.sound:
        say(f"good     {line}")
    for line in found.notes:
        say(f"note     {line}")
    for finding in found.findings:
        say(f"DAMAGED  {finding.part}: {finding.fault}")
        say(f"         {finding.remedy}")
    if found.findings:
        remedy = (
            "what is left needs the remedy named above"
            if repair
            else f"run `recmind doctor {run_dir} --repair`"
        )
        raise StoreError(
            f"{run_dir}: {len(found.findings)} parts damaged, {len(found.sound)} good: {remedy}"
        )
    say(f"{run_dir}: all {len(found.sound)} parts are good")
