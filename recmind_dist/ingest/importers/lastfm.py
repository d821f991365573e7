"""Last.fm 360K and 1K (ocelma.net/MusicRecommendationDataset) and HetRec 2011's lastfm-2k.

Items are artists. An artist without a MusicBrainz id goes by the name.
"""

from recmind_dist.ingest.importers.columns import ident, instant, number, text
from recmind_dist.ingest.importers.delimited import Delimited
from recmind_dist.ingest.importers.importer import Importer, Kind

MBID = r"([0-9a-f-]{36})?"
SHA1 = r"[0-9a-f]{40}"
ARTISTS = (ident("id", "artist_id", "artist"), text("name", "artist"))
PROFILE = (ident("id", "user_id"), *map(text, ("gender", "age", "country")))

LASTFM = Importer(
    "lastfm",
    "Last.fm",
    kinds=(
        Kind(
            "360K's plays",
            Delimited(
                "\t", ("user_id", "artist_id", "artist", "plays"), (SHA1, MBID, ".*", r"\d+")
            ),
            interactions=(
                ident("user", "user_id"),
                ident("item", "artist_id", "artist"),
                number("plays", "plays"),
            ),
            items=ARTISTS,
        ),
        Kind(
            "360K's profiles",
            Delimited(
                "\t",
                ("user_id", "gender", "age", "country", "signup"),
                (SHA1, "[mf]?", r"(-?\d+)?", ".*", ".*"),
            ),
            users=PROFILE,
        ),
        Kind(
            "1K's plays",
            Delimited(
                "\t",
                ("user_id", "timestamp", "artist_id", "artist", "track_id", "track"),
                (r"user_\d+", r"\d{4}-\d\d-\d\dT.*Z", MBID, ".*", MBID, ".*"),
            ),
            interactions=(
                ident("user", "user_id"),
                ident("item", "artist_id", "artist"),
                instant("time", "timestamp", "%Y-%m-%dT%H:%M:%SZ"),
            ),
            items=ARTISTS,
        ),
        Kind(
            "1K's profiles",
            Delimited("\t", ("#id", "gender", "age", "country", "registered")),
            users=(ident("id", "#id"), *PROFILE[1:]),
        ),
        Kind(
            "user_artists",
            Delimited("\t", ("userID", "artistID", "weight")),
            interactions=(
                ident("user", "userID"),
                ident("item", "artistID"),
                number("plays", "weight"),
            ),
        ),
        Kind(
            "artists",
            Delimited("\t", ("id", "name", "url"), encoding="latin-1"),
            items=(ident("id", "id"), text("name")),
        ),
        *(
            Kind(name, Delimited("\t", header, encoding="latin-1"), unused=why)
            for name, header, why in (
                ("tags", ("tagID", "tagValue"), "tags are not joined"),
                ("tagged artists", ("userID", "artistID", "tagID"), "tags are not plays"),
                ("friends", ("userID", "friendID"), "friendships are not used"),
            )
        ),
    ),
    template="{name}",
)
