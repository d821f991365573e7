"""The application of `recmind serve` as a Ray Serve deployment: replicas on several machines.

    pip install 'ray[serve]' 'recmind-dist[serve]'
    cd launchers && serve run ray_serve:build bundle=/data/bundles/current token_file=/data/token

Every replica reads the bundle, from a path that each node sees. `POST /bundle` reaches one replica
alone: with several, move the link `bundle`, which all of them follow.

`serve run` imports this file before it starts a Ray of its own, whose usage statistics are then
off; on a cluster that runs already its head has decided.
"""

import os
from pathlib import Path
from typing import Any

from ray import serve

from recmind_dist.serving.app import make_app
from recmind_dist.serving.current import Current, open_served
from recmind_dist.serving.settings import ServeSettings, read_token

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def build(arguments: dict[str, str]) -> serve.Application:
    """The Ray Serve application.

    Args:
        arguments: `bundle`; `token_file`, without which localhost alone is answered; `root`;
            `num_replicas` (1).
    """
    bundle = Path(arguments["bundle"])
    token_file = arguments.get("token_file")
    settings = ServeSettings(
        bundle=bundle,
        root=Path(arguments.get("root", bundle.absolute().parent)),
        token=read_token(Path(token_file) if token_file else None),
    )

    def application() -> Any:
        return make_app(Current(bundle, open_served(bundle)), settings)

    @serve.deployment(num_replicas=int(arguments.get("num_replicas", "1")))
    @serve.ingress(application)  # called in each replica
    class Recommender:
        pass

    return Recommender.bind()
