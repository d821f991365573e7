"""The application: routes over the bundle that is served now."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from recmind_dist.errors import RecmindError
from recmind_dist.serving.bodies import (
    BundleBody,
    RecommendBody,
    SimilarBody,
    read_body,
    schema_of,
    sentence_of,
)
from recmind_dist.serving.current import Current, collect_once, inside
from recmind_dist.serving.guard import Guard
from recmind_dist.serving.metrics import Metrics
from recmind_dist.serving.rankings import Rankings
from recmind_dist.serving.refusal import Refusal
from recmind_dist.serving.settings import ServeSettings

_log = logging.getLogger(__name__)
_PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
Limit = Annotated[int, Query(ge=1, le=100)]
Words = Annotated[str, Query(max_length=200)]


def make_app(current: Current, settings: ServeSettings) -> FastAPI:
    """The FastAPI application of one server."""
    metrics = Metrics()

    rankings = Rankings(current, settings.limits, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        collect_once()
        following = None
        if settings.watch_s:
            following = asyncio.create_task(current.follow(settings.watch_s))
        yield
        if following is not None:
            following.cancel()
        rankings.close()

    # the pages that FastAPI makes of its own fetch scripts from elsewhere
    app = FastAPI(title="recmind", lifespan=lifespan, docs_url=None, redoc_url=None)
    _add_rankings(app, rankings, settings)
    _add_lookups(app, current, settings)
    _add_bundle(app, current, settings)
    _add_metrics(app, current, metrics, rankings)
    _add_page(app)
    _add_refusals(app)
    paths = frozenset(str(getattr(route, "path", "")) for route in app.routes)
    app.add_middleware(Guard, settings=settings, metrics=metrics, routes=paths)
    return app


def _add_rankings(app: FastAPI, rankings: Rankings, settings: ServeSettings) -> None:
    @app.post("/recommend", openapi_extra=schema_of(RecommendBody))
    async def recommend(request: Request) -> Response:
        """Ranks items for users, a history, a text, or a vector."""
        body = await read_body(RecommendBody, request)
        body.check(settings.limits)
        return _json(await rankings.ask(body))

    @app.post("/similar", openapi_extra=schema_of(SimilarBody))
    async def similar(request: Request) -> Response:
        """Ranks the items nearest to an item."""
        body = await read_body(SimilarBody, request)
        body.check(settings.limits)
        return _json(await rankings.ask(body))

    # FastAPI's own routes, which /openapi.json shows, take 0.15 ms more a request than these
    for path, endpoint in (("/recommend", recommend), ("/similar", similar)):
        app.router.routes.insert(0, Route(path, endpoint, methods=["POST"]))


def _add_lookups(app: FastAPI, current: Current, settings: ServeSettings) -> None:
    @app.get("/health")
    async def health() -> Response:
        """That requests are answered, and whether they need a token."""
        return _json({"status": "ok", "token": settings.token is not None})

    @app.get("/about")
    async def about() -> Response:
        """What is served: sizes, views, columns to filter by, what can be asked."""
        return _json(current.served.about())

    @app.get("/users")
    async def users(prefix: Words = "", limit: Limit = 20) -> Response:
        """Ids of users that begin so."""
        return _json({"users": await asyncio.to_thread(current.served.find_users, prefix, limit)})

    @app.get("/items")
    async def items(words: Words = "", limit: Limit = 20) -> Response:
        """Items whose id or title has these characters."""
        return _json({"items": await asyncio.to_thread(current.served.find_items, words, limit)})


def _add_bundle(app: FastAPI, current: Current, settings: ServeSettings) -> None:
    @app.post("/bundle", openapi_extra=schema_of(BundleBody))
    async def bundle(request: Request) -> Response:
        """Serves another bundle from now on, if all its files are as its manifest says."""
        if settings.token is None:
            raise Refusal(403, "this server has no token: start it with --token-file to swap")
        body = await read_body(BundleBody, request)
        new = await current.swap(inside(settings.root, body.path))
        return _json({"bundle": new.label})


def _add_metrics(app: FastAPI, current: Current, metrics: Metrics, rankings: Rankings) -> None:

    @app.get("/metrics")
    async def prometheus() -> Response:
        """Counters in Prometheus's format."""
        metrics.waiting.set(rankings.waiting)
        metrics.swaps.set(current.swaps)
        metrics.refused.set(current.refused)
        metrics.users.set(current.served.num_users)
        metrics.items.set(current.served.num_items)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    folder = files("recmind_dist.serving") / "page"
    for path, (name, kind) in _PAGE.items():
        page = Response((folder / name).read_bytes(), media_type=kind)
        app.router.routes.append(Route(path, page, methods=["GET"], include_in_schema=False))


def _add_refusals(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        return refusal.response()

    @app.exception_handler(RecmindError)
    async def cannot(_: Request, error: RecmindError) -> Response:
        return Refusal(422, str(error)).response()

    @app.exception_handler(RequestValidationError)
    async def unfit(_: Request, error: RequestValidationError) -> Response:
        return Refusal(422, sentence_of(error.errors())).response()

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        sentence = f"{request.method} {request.url.path[:100]}: {error.detail}: see /openapi.json"
        return Refusal(error.status_code, sentence, error.headers).response()

    @app.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> Response:
        _log.error("a request failed", exc_info=error)
        return Refusal(500, "a fault of the server, which its log has").response()


def _json(value: Any) -> Response:
    return Response(to_json(value), media_type="application/json")
