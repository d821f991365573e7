"""Bodies of requests, and the checks against the server's limits."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from recmind_dist.serving.refusal import Refusal
from recmind_dist.serving.settings import Limits


def _as_id(value: Any) -> Any:
    """Ids may be whole numbers in JSON; they are texts everywhere else."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Id = Annotated[str, BeforeValidator(_as_id)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Ranking(_Body):
    """What every ranking may ask for.

    Attributes:
        k: how many items.
        where: a filter over the items' columns.
        items, exclude: rank these alone; leave these out.
        explain: say why.
    """

    k: int = Field(10, ge=1)
    where: str | None = None
    items: list[Id] | None = None
    exclude: list[Id] | None = None
    explain: bool = True

    def check(self, limits: Limits) -> None:
        """Raises Refusal where more is asked for than the limits allow."""
        _at_most("k", self.k, limits.k)
        _at_most("where, in characters,", len(self.where or ""), limits.filter)
        for name in ("items", "exclude"):
            _at_most(f"length of {name}", len(getattr(self, name) or ()), limits.history)


class RecommendBody(_Ranking):
    """Ranks items for one of: `user` (with `history` in place of what is known of them), `users`,
    `history` (the oldest first), `text`, or `vector` (of a user, as long as the items').

    Attributes:
        seen: whether items of the history may be shown.
    """

    user: Id | None = None
    users: list[Id] | None = None
    history: list[Id] | None = None
    text: str | None = None
    vector: list[Number] | None = None
    seen: Literal["exclude", "include"] = "exclude"

    def check(self, limits: Limits) -> None:
        """Raises Refusal where it asks for nobody, for two at once, or for too much."""
        super().check(limits)
        names = ("user", "users", "history", "text", "vector")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1 and given != ["user", "history"]:
            raise Refusal(
                422,
                f"give one of user, users, history, text and vector, or user and history: here is "
                f"{' and '.join(given) or 'none'}",
            )
        _at_most("number of users", len(self.users or ()), limits.users)
        _at_most("length of the history", len(self.history or ()), limits.history)
        _at_most("text, in characters,", len(self.text or ""), limits.text)
        for name in ("users", "history", "text", "vector"):
            if getattr(self, name) is not None and not len(getattr(self, name)):
                raise Refusal(422, f"{name} is empty: {_REMEDY[name]}")


_REMEDY = {
    "users": "give at least one id",
    "history": "give item ids, the oldest first, or a user",
    "text": "say what is looked for",
    "vector": "give as many numbers as an item's vector has",
}


class SimilarBody(_Ranking):
    """Ranks the items nearest to `item`."""

    item: Id


class BundleBody(_Body):
    """The directory of the bundle to serve from now on."""

    path: str = Field(min_length=1, max_length=4096)


Body = TypeVar("Body", bound=_Body)


async def read_body(kind: type[Body], request: Request) -> Body:
    """The request's JSON. pydantic parses the bytes itself, which is faster than JSON first, and
    refuses half surrogate pairs and NaN.

    Raises:
        Refusal: 415, another content type; 422, not JSON of that kind.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise Refusal(415, "send JSON, with the header content-type: application/json")
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        raise Refusal(422, sentence_of(faults)) from error


def schema_of(kind: type[_Body]) -> dict[str, Any]:
    """The request body's part of OpenAPI."""
    content = {"application/json": {"schema": kind.model_json_schema()}}
    return {"requestBody": {"required": True, "content": content}}


def sentence_of(faults: Sequence[Mapping[str, Any]]) -> str:
    """The first of pydantic's faults, by its key."""
    first = faults[0]
    where = ".".join(str(part) for part in first["loc"]) or "the body"
    return f"{where[:100]}: {str(first['msg'])[:200]}"


def _at_most(what: str, found: int, limit: int) -> None:
    if found > limit:
        raise Refusal(422, f"{what} is {found}: this server allows at most {limit}")
