"""`recmind serve`: a bundle over HTTP."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from recmind_dist.cli.app import app, say
from recmind_dist.cli.recommend import Penalty, make_missing_bundle


@app.command()
def serve(
    bundle: Annotated[Path, typer.Argument(help="a bundle, a run, or a link to one")],
    host: Annotated[str, typer.Option(help="beyond loopback only with a token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="file with the token; else $RECMIND_TOKEN", show_default=False),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            help="where POST /bundle finds bundles; else beside BUNDLE", show_default=False
        ),
    ] = None,
    popularity_penalty: Penalty = 0.0,
    index: Annotated[
        bool, typer.Option("--index", help="rank by the bundle's index, which misses some items")
    ] = False,
    max_k: Annotated[int, typer.Option(min=1, help="items of a ranking")] = 1000,
    max_history: Annotated[int, typer.Option(min=1, help="items of a history")] = 1000,
    max_text: Annotated[int, typer.Option(min=1, help="characters of a text")] = 10_000,
    max_body: Annotated[int, typer.Option(min=1024, help="bytes of a request")] = 1 << 20,
) -> None:
    """Answers requests for recommendations over HTTP, with a page to try it."""
    # read when numpy is imported: threads of a product would take the event loop's core
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from recmind_dist.serving.run import serve as run
    from recmind_dist.serving.settings import Limits, ServeSettings, read_token

    settings = ServeSettings(
        bundle=bundle,
        root=root or bundle.absolute().parent,
        host=host,
        port=port,
        token=read_token(token_file),
        indexed=index,
        limits=Limits(body_bytes=max_body, k=max_k, history=max_history, text=max_text),
        popularity_penalty=popularity_penalty,
    )
    make_missing_bundle(bundle)
    with suppress(KeyboardInterrupt):  # Ctrl-C is how a server ends
        run(settings, say)
