"""What columns are called: the words in a name that speak for a role."""

import re

ROLES = {
    "user": {
        *("user", "users", "customer", "client", "buyer", "reviewer", "visitor", "member", "uid"),
        *("shopper", "reader", "listener", "player", "viewer", "subscriber", "person", "usr", "u"),
        *("patron", "student", "guest", "consumer", "username", "borrower", "learner", "cust"),
        *("nutzer", "kunde", "utilisateur", "usuario", "cliente", "rater", "voter", "taster"),
    },
    "item": {
        *("item", "items", "product", "sku", "asin", "movie", "film", "book", "article", "isbn"),
        *("business", "song", "track", "artist", "game", "news", "video", "recipe", "course"),
        *("listing", "good", "goods", "stock", "stockcode", "venue", "poi", "app", "job", "itm"),
        *("restaurant", "hotel", "anime", "beer", "wine", "offer", "podcast", "iid", "i", "pid"),
        *("artikel", "produkt", "producto", "produit", "lesson", "vacancy", "dish", "toy", "ad"),
    },
    "time": {
        *("time", "timestamp", "date", "datetime", "ts", "when", "day", "created", "at", "unix"),
        *("dat", "zeit", "datum", "moment", "epoch", "watched", "bought", "ordered", "viewed"),
        *("fecha", "on", "seen", "posted"),
    },
    "rating": {
        *("rating", "ratings", "stars", "score", "overall", "rate", "grade", "points", "note"),
        *("bewertung", "vote"),
    },
    "title": {"title", "name", "label", "headline", "heading", "titel", "caption", "prod"},
    "event": {"event", "action", "behavior", "behaviour", "type", "activity", "interaction"},
}
WEAK = {  # speak for a role only where nothing else does
    "user": {
        *("session", "author", "device", "profile", "owner", "account", "household", "person"),
        *("visit", "cookie", "anonymous", "reviewername", "employee", "patient", "email"),
        *("mail", "phone"),
    },
    "item": {
        *("content", "post", "show", "episode", "place", "part", "station", "tool", "brewery"),
        *("plant", "paper", "url", "page", "link", "code", "title", "name", "query", "object"),
    },
}
LATER = {  # of instants: not that of the interaction, where there is another; durations
    *("spent", "duration", "elapsed", "length"),
    *("updated", "modified", "deleted", "edited", "last", "signup", "registered", "birth", "born"),
    *("released", "release", "expires", "delivered", "shipped", "joined", "since", "end", "ended"),
}


def words(name: str) -> list[str]:
    """`userId` → user, id; `unixReviewTime` → unix, review, time."""
    parted = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    return [word for word in re.split(r"[^a-z0-9äöüßé]+", parted.lower()) if word]


def speaks_for(name: str, role: str, weakly: bool = False) -> bool:
    """Whether a column's name has a word of the role, or one that is a word and `id` in one.

    Args:
        weakly: words count that speak for the role only where nothing else does.
    """
    found = set(words(name))
    found |= {re.sub(r"(ids?|nos?|nr|nummer|code|ref|num|hash)$", "", word) for word in found}
    found |= {re.sub(r"s$", "", word) for word in found}
    return bool(found & (WEAK[role] if weakly else ROLES[role]))


def is_later(name: str) -> bool:
    """Whether an instant is of something after or before the interaction, as `updated_at`."""
    return bool(LATER & set(words(name)))


def is_known(name: str) -> bool:
    """Whether a name speaks for any role, or says that it is an id."""
    return "id" in words(name) or any(speaks_for(name, role) for role in ROLES)
