"""What columns are called: the words in a name that speak for a role."""

import re

ROLES = {
    "user": {
        *("user", "users", "customer", "client", "buyer", "reviewer", "visitor", "member", "uid"),
        *("shopper", "reader", "listener", "player", "viewer", "subscriber", "account", "person"),
        *("profile", "patron", "student", "guest", "consumer", "owner", "username", "borrower"),
        *("learner", "nutzer", "kunde", "utilisateur", "session", "author", "device", "household"),
    },
    "item": {
        *("item", "items", "product", "sku", "asin", "movie", "film", "book", "article", "isbn"),
        *("business", "song", "track", "artist", "game", "news", "video", "recipe", "course"),
        *("listing", "good", "goods", "stock", "stockcode", "venue", "place", "poi", "app", "job"),
        *("restaurant", "hotel", "anime", "beer", "wine", "offer", "content", "post", "paper"),
        *("episode", "show", "podcast", "event_item", "title_id", "iid", "artikel", "produkt"),
        *("lesson", "station", "vacancy", "dish", "brewery", "tool", "part", "plant", "toy"),
    },
    "time": {
        *("time", "timestamp", "date", "datetime", "ts", "when", "day", "created", "at", "unix"),
        *("dat", "zeit", "datum", "moment", "epoch", "watched", "bought", "ordered", "viewed"),
    },
    "rating": {
        *("rating", "ratings", "stars", "score", "overall", "rate", "grade", "points", "note"),
        *("bewertung", "vote"),
    },
    "title": {"title", "name", "label", "headline", "heading", "titel", "caption", "prod"},
    "event": {"event", "action", "behavior", "behaviour", "type", "activity"},
}


def words(name: str) -> list[str]:
    """`userId` → user, id; `unixReviewTime` → unix, review, time."""
    parted = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return [word for word in re.split(r"[^a-z0-9äöüßé]+", parted.lower()) if word]


def speaks_for(name: str, role: str) -> bool:
    """Whether a column's name has a word of the role, or one that is a word and `id` in one."""
    found = set(words(name))
    found |= {re.sub(r"(ids?|nos?|nr|code|ref|num|hash)$", "", word) for word in found}
    found |= {re.sub(r"s$", "", word) for word in found}
    return bool(found & ROLES[role])


def is_known(name: str) -> bool:
    """Whether a name speaks for any role, or says that it is an id."""
    return "id" in words(name) or any(speaks_for(name, role) for role in ROLES)
