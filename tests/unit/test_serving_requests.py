"""A served bundle over a real socket: replies, and a sentence with the right status otherwise."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.random_bundle import RandomBundle
from benchmarks.server_process import TOKEN, ServerProcess
from recmind_dist.cli import main
from recmind_dist.recommend.recommender import Ranking, load

SIZE = RandomBundle(num_users=60, num_items=400, dim=8, history=6)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SIZE.write(tmp_path_factory.mktemp("served") / "bundle")


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[ServerProcess]:
    with ServerProcess(bundle) as server:
        yield server


def found(reply: Any, row: int = 0) -> list[str]:
    return [item["item_id"] for item in reply["results"][row]["items"]]


def test_replies_are_those_of_python(server: ServerProcess, bundle: Path) -> None:
    recommender = load(bundle)
    where = 'category == "Kids" and year > 2000'
    cases: list[tuple[dict[str, Any], Ranking]] = [
        ({"user": "u3"}, recommender.recommend("u3")),
        ({"user": "u3", "seen": "include"}, recommender.recommend("u3", seen="include")),
        ({"user": "u3", "where": where}, recommender.recommend("u3", where=where)),
        ({"history": ["i1", "i7"]}, recommender.recommend(history=["i1", "i7"])),
        ({"user": "u3", "history": ["i7"]}, recommender.recommend("u3", history=["i7"])),
        ({"user": "u3", "items": ["i5", "i9"]}, recommender.recommend("u3", items=["i5", "i9"])),
    ]
    for body, expected in cases:
        status, reply = server.ask("/recommend", {**body, "k": 10})
        assert status == 200, reply
        ours = reply["results"][0]
        assert found(reply) == [one.item_id for one in expected], body
        for item, one in zip(ours["items"], expected, strict=True):
            assert item["score"] == pytest.approx(one.score, abs=1e-5)
            assert item["shares"] == pytest.approx(one.shares, abs=1e-5)
            assert [near["item_id"] for near in item["nearest"]] == [n.item_id for n in one.nearest]
        assert ours["gates"] == pytest.approx(expected.gates, abs=1e-5)


def test_similar_items_and_a_vector_of_ones_own(server: ServerProcess, bundle: Path) -> None:
    recommender = load(bundle)
    _, reply = server.ask("/similar", {"item": "i5", "k": 4, "exclude": ["i6"]})
    expected = recommender.similar("i5", 4, exclude=["i6"])
    assert found(reply) == [one.item_id for one in expected]
    assert reply["results"][0]["items"][0]["cosine"] == pytest.approx(expected[0].cosine, abs=1e-5)
    vector = recommender.bundle.item_vectors[9]
    _, reply = server.ask("/recommend", {"vector": vector.tolist(), "k": 3})
    assert found(reply) == [one.item_id for one in recommender.recommend(text=vector, k=3)]
    assert "gates" not in reply["results"][0] or not reply["results"][0]["gates"]


def test_unknown_ids_are_listed_and_the_rest_is_served(server: ServerProcess) -> None:
    status, reply = server.ask("/recommend", {"users": ["u1", "nobody", "u2"], "k": 2})
    assert status == 200
    assert [one["user_id"] for one in reply["results"]] == ["u1", "u2"]
    assert reply["unknown"] == {"users": ["nobody"]}
    status, reply = server.ask("/recommend", {"history": ["i1", "gone"], "k": 2})
    assert (status, reply["unknown"]) == (200, {"items": ["gone"]})
    _, reply = server.ask("/recommend", {"user": "u1", "items": ["i1", "no"], "exclude": ["nor"]})
    assert reply["unknown"] == {"items": ["no", "nor"]}


def test_lookups_for_the_page(server: ServerProcess) -> None:
    _, about = server.ask("/about")
    assert (about["num_items"], about["views"], about["reads_text"]) == (
        400,
        ["graph", "text"],
        False,
    )
    assert about["columns"]["category"] == "string"
    assert server.ask("/users?prefix=u5&limit=3")[1]["users"] == ["u5", "u50", "u51"]
    items = server.ask("/items?words=HARBOUR&limit=2")[1]["items"]
    assert [item["item_id"] for item in items] == ["i0", "i1"]
    assert server.ask("/items?words=i77")[1]["items"][0]["item_id"] == "i77"


REFUSED: list[tuple[str, Any, int, str]] = [
    ("/recommend", {"user": "nobody"}, 404, "'nobody' is not in random"),
    ("/recommend", {"users": ["a", "b"]}, 404, "a, b"),
    ("/recommend", {"history": []}, 422, "history is empty"),
    ("/recommend", {"history": ["gone"]}, 404, "gone"),
    ("/recommend", {"history": ["i1", "i1"]}, 422, "stands twice"),
    ("/recommend", {"history": ["i1"] * 1001}, 422, "history is 1001"),
    ("/recommend", {"user": "u1", "k": 401}, 422, "random has 400 items"),
    ("/recommend", {"user": "u1", "k": 5000}, 422, "at most 1000"),
    ("/recommend", {"user": "u1", "k": 0}, 422, "k: "),
    ("/recommend", {"user": "u1", "k": True}, 422, "k: "),
    ("/recommend", {"user": "u1", "where": "colour == 'red'"}, 422, "no column 'colour'"),
    ("/recommend", {"user": "u1", "where": "__import__('os')"}, 422, "where"),
    ("/recommend", {"user": "u1", "items": ["gone"]}, 422, "none of them is in random"),
    ("/recommend", {"user": "u1", "text": "a lamp"}, 422, "give one of"),
    ("/recommend", {}, 422, "here is none"),
    ("/recommend", {"text": "a lamp"}, 501, "no language model"),
    ("/recommend", {"text": "x" * 100_000}, 422, "100000"),
    ("/recommend", {"vector": [1.0, 2.0]}, 422, "2 numbers"),
    ("/recommend", {"vector": [1e300] * 17}, 422, "too large"),
    ("/recommend", {"user": "u1", "colour": 1}, 422, "colour"),
    ("/recommend", [1], 422, "object"),
    ("/similar", {"item": "gone"}, 404, "'gone' is not in random"),
    ("/nowhere", {}, 404, "Not Found"),
    ("/about", {}, 405, "Method Not Allowed"),
    ("/users?limit=0", None, 422, "limit"),
    ("/bundle", {"path": "other"}, 403, "no token"),
]


@pytest.mark.parametrize(("path", "body", "status", "words"), REFUSED)
def test_a_refusal_is_one_sentence(
    server: ServerProcess, path: str, body: Any, status: int, words: str
) -> None:
    found, reply = server.ask(path, body)
    assert (found, list(reply)) == (status, ["error"]), reply
    assert words in reply["error"]
    assert "\n" not in reply["error"]


RAW: list[tuple[bytes, int, str]] = [
    (b'{"vector": [NaN, 1.0]}', 422, "vector"),
    (b'{"vector": [Infinity]}', 422, "vector"),
    (b'{"user": "\\ud800"}', 422, "JSON"),
    (b'{"user": "u1"', 422, "JSON"),
    (b"\xff\xfe", 422, "JSON"),
    (b"[" * 100_000, 422, "JSON"),
    (b"", 422, "JSON"),
    (b'{"user": "' + b"x" * (2 << 20) + b'"}', 413, "longer than 1048576 bytes"),
]


@pytest.mark.parametrize(("data", "status", "words"), RAW, ids=range(len(RAW)))
def test_bodies_that_are_no_json_of_ours(
    server: ServerProcess, data: bytes, status: int, words: str
) -> None:
    found, reply = server.ask("/recommend", data=data)
    assert (found, words in reply["error"]) == (status, True), reply


def test_a_body_of_a_hundred_megabytes_is_refused_in_a_sentence(server: ServerProcess) -> None:
    status, reply = server.ask("/recommend", data=b" " * (100 << 20))
    assert (status, reply["error"][:12]) == (413, "the body is ")
    assert server.ask("/recommend", {"user": "u1"})[0] == 200


def test_a_client_that_asks_before_it_sends_is_told_at_once(server: ServerProcess) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    head = "POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: 104857600\r\n"
    with socket.create_connection((host, int(port)), 20) as client:
        client.sendall((head + "Expect: 100-continue\r\n\r\n").encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_other_kinds_of_content_and_foreign_hosts_are_refused(server: ServerProcess) -> None:
    body = {"user": "u1"}
    assert server.ask("/recommend", body, {"Content-Type": "text/plain"})[0] == 415
    status, reply = server.ask("/recommend", body, {"Host": "shop.example"})
    assert (status, "localhost" in reply["error"]) == (403, True)


def test_metrics_count_answers_by_route_and_status(server: ServerProcess) -> None:
    server.ask("/recommend", {"user": "u1"})
    server.ask("/no/such/place")
    _, text = server.ask("/metrics")
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(lines['recmind_requests_total{route="/recommend",status="200"}']) >= 1
    assert float(lines['recmind_requests_total{route="other",status="404"}']) >= 1
    assert lines["recmind_bundle_items"] == "400.0"


def test_a_token_is_asked_for(bundle: Path) -> None:
    with ServerProcess(bundle, token=TOKEN) as server:
        assert server.ask("/recommend", {"user": "u1"})[0] == 200
        for wrong in ("", "Bearer", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}"):
            for path, body in (
                ("/recommend", {"user": "u1"}),
                ("/metrics", None),
                ("/users", None),
            ):
                status, reply = server.ask(path, body, {"Authorization": wrong})
                assert (status, list(reply)) == (401, ["error"])
        for path in ("/", "/page.js", "/page.css", "/health"):
            assert server.ask(path, None, {"Authorization": ""})[0] == 200
        server.stop()
    assert server.errors() == ""


def refused_command(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["serve", *words])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_what_cannot_be_served_ends_in_a_sentence(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], server: ServerProcess
) -> None:
    port = server.url.rsplit(":", 1)[1]
    assert "in use: choose another with --port" in refused_command(
        capsys, str(bundle), "--port", port
    )
    path = str(bundle)
    assert "without a token" in refused_command(capsys, path, "--host", "0.0.0.0")
    assert "cannot be listened on" in refused_command(
        capsys, path, "--host", "nowhere.invalid", "--token-file", str(_token(tmp_path))
    )
    short = _token(tmp_path, "short")
    assert "at least 16" in refused_command(capsys, path, "--token-file", str(short))
    assert "absent" in refused_command(capsys, path, "--token-file", str(tmp_path / "absent"))
    assert "no manifest.json" in refused_command(capsys, str(tmp_path), "--port", "0")
    other = _of_another_version(bundle, tmp_path / "other")
    assert "schema version 99" in refused_command(capsys, str(other), "--port", "0")


def _token(folder: Path, token: str = TOKEN) -> Path:
    (folder / "token").write_text(token)
    return folder / "token"


def _of_another_version(bundle: Path, to: Path) -> Path:
    to.mkdir()
    manifest = json.loads((bundle / "manifest.json").read_text())
    (to / "manifest.json").write_text(json.dumps(manifest | {"schema": 99}))
    return to
