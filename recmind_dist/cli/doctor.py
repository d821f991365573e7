"""`recmind doctor`: examines a run, and repairs it."""

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
    """Verifies every file of a run and of its inputs; exit code 2 if something is damaged."""
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
        counts = f"{len(found.findings)} parts damaged, {len(found.sound)} good"
        remedy = f"run `recmind doctor {run_dir} --repair`"
        if repair:
            remedy = "what is left needs the remedy named above"
        raise StoreError(f"{run_dir}: {counts}: {remedy}")
    say(f"{run_dir}: all {len(found.sound)} parts are good")
