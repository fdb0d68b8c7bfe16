"""The annotation server over real HTTP: what raters do, and what strangers try."""

import contextlib
import json
import logging
import socket
import sqlite3

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from mmrlhf_jax.feedback.guard import MAX_BODY
from mmrlhf_jax.feedback.links import DASHBOARD, Links
from mmrlhf_jax.feedback.media import add_picture
from mmrlhf_jax.feedback.store import Store
from mmrlhf_jax.feedback.tasks import Item
from tests.annotation import running

SCRIPT = "<script>alert(1)</script>\"'--; DROP TABLE judgements; \u202e\x00"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Store(tmp_path_factory.mktemp("server") / "store.sqlite") as store:
        store.add_raters(["one", "two", "three", "four", "five"])
        picture = add_picture(store, np.full((8, 8, 3), 200, np.uint8), "grey")
        store.add_items([Item("compare", SCRIPT, (SCRIPT, "plain"), picture, wanted=5) for _ in range(40)])
        with running(store) as started:
            yield started


@pytest.fixture
def one(server):
    return server.client(1)


def test_a_rater_judges_undoes_and_comes_back(server):
    rater = server.client(2)
    first, second = rater.tasks(2)
    assert set(first) == {"item", "kind", "prompt", "answers", "shown", "picture", "sound"}
    assert first["prompt"] == SCRIPT and sorted(first["shown"]) == [0, 1]
    status, stored = rater.judge("judge-two-1", first["item"], {"choice": "a"}, seconds=2.5)
    assert status == 200 and not stored["repeated"]
    assert rater.judge("judge-two-1", first["item"], {"choice": "a"})[1] == {**stored, "repeated": True}
    rater = server.client(2)  # the tab was closed; the item in hand comes again
    assert rater.tasks(1)[0] == second
    status, undone = rater.json("POST", "/api/undo", {"key": "undo-two-1", "undone": "judge-two-1"})
    assert status == 200 and undone["task"] == first
    assert rater.judge("judge-two-2", first["item"], {"choice": "b"})[0] == 200
    rows = [row for row in server.store.standing() if row.rater == 2]
    assert [(row.answer, list(row.shown)) for row in rows] == [({"choice": "b"}, first["shown"])]
    status, session = rater.json("GET", "/api/session")
    assert (status, session["name"], session["done"], session["left"]) == (200, "two", 1, 39)


def test_judgements_that_cannot_be(server, one):
    (task,) = one.tasks()
    other = next(i for i in server.desk.items if i not in {task["item"]})
    assert one.judge("judge-one-1", other, {"choice": "a"})[0] == 409  # never in this rater's hands
    assert one.judge("judge-one-1", task["item"], {"choice": "z"})[0] == 422
    assert one.judge("judge-one-1", task["item"], {"choice": "tie"})[0] == 200
    assert one.judge("judge-one-1", task["item"], {"choice": "a"})[0] == 409
    assert one.judge("judge-one-2", task["item"], {"choice": "a"})[0] == 409


@pytest.mark.parametrize(
    "change",
    [
        {"key": "short"},
        {"key": "' OR 1=1 --"},
        {"key": None},
        {"item": "1"},
        {"item": -1},
        {"item": 2**70},
        {"item": 1.5},
        {"answer": "a"},
        {"answer": {"choice": SCRIPT}},
        {"answer": {"choice": {"$ne": ""}}},
        {"answer": {"choice": "\ud800"}},
        {"answer": {"\ud800": 1}},
        {"seconds": -1},
        {"seconds": float("nan")},
        {"seconds": 1e300},
        {"seconds": "1"},
        {"extra": 1},
    ],
)
def test_odd_bodies_are_refused(one, change):
    (task,) = one.tasks()
    body = {"key": "odd-body-1", "item": task["item"], "answer": {"choice": "a"}, "seconds": 1.0, **change}
    status, answer = one.json("POST", "/api/judgements", body)
    assert status in (409, 422) and set(answer) == {"error"}


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 50_000, b"\xff\xfe", b"null", b'{"count": 1, "count": 2, "have": {}}', b'"\\ud800"'],
)
@pytest.mark.parametrize("path", ["/api/tasks", "/api/judgements", "/api/undo", "/api/name"])
def test_no_body_is_an_internal_error(one, path, body):
    status, _, _ = one.request("POST", path, body)
    assert status in (400, 422)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from(["key", "item", "answer", "seconds", "count", "have", "undone", "name", "choice"])


@pytest.mark.medium
@given(
    path=st.sampled_from(["/api/tasks", "/api/judgements", "/api/undo", "/api/name"]),
    body=JSON | st.dictionaries(FIELDS, JSON | st.dictionaries(FIELDS, JSON, max_size=2), max_size=5),
)
@settings(max_examples=50, deadline=None)
def test_no_json_is_an_internal_error(server, path, body):
    rater = getattr(server, "fuzzer", None) or server.client(4)
    server.fuzzer = rater
    status, _, answer = rater.request("POST", path, body)
    assert status in (200, 409, 422), answer
    assert isinstance(json.loads(answer), dict)


def test_texts_come_back_as_they_were_and_are_never_html(one):
    status, headers, body = one.request("POST", "/api/tasks", {"count": 1})
    assert status == 200 and headers["content-type"] == "application/json"
    assert json.loads(body)["tasks"][0]["answers"] == [SCRIPT, "plain"]


def test_names_are_text(server):
    rater = server.client(5)
    status, answer = rater.json("POST", "/api/name", {"name": " <b>Zoë</b>\n\x00'; -- "})
    assert (status, answer["name"]) == (200, "<b>Zoë</b> '; --")
    assert server.store.raters()[4].name == "<b>Zoë</b> '; --"
    for name in ("", " \n ", "x" * 41, 5):
        assert rater.json("POST", "/api/name", {"name": name})[0] == 422


def test_nobody_is_let_in_without_a_link(server):
    stranger = server.client()
    assert stranger.request("GET", "/api/session")[0] == 401
    assert stranger.request("GET", "/api/dashboard")[0] == 401
    assert stranger.request("POST", "/api/tasks", {"count": 1})[0] == 401
    links = Links(server.store.secret)
    wrong = [
        "",
        "1",
        "1-",
        "1-x",
        "2" + links.token("link", 1)[1:],
        links.token("session", 1),
        "9" * 30,
        "\u0661-x",
    ]
    for token in (*wrong, Links(b"0" * 32).token("link", 1)):
        status, headers, _ = stranger.request("GET", "/enter/" + "".join(f"%{b:02x}" for b in token.encode()))
        assert status in (403, 404) and "set-cookie" not in headers
    for cookie in (
        "session=",
        "session=1-x",
        f"session={links.token('link', 1)}",
        f"session={links.token('session', 99)}",
    ):
        stranger.cookie = cookie
        assert stranger.request("GET", "/api/session")[0] == 401
    assert links.who("link", links.token("link", 3)) == 3


def test_raters_and_dashboard_are_apart(server, one):
    assert one.request("GET", "/api/dashboard")[0] == 403
    dashboard = server.client(DASHBOARD)
    status, seen = dashboard.json("GET", "/api/dashboard")
    assert status == 200 and seen["items"] == 40 and len(seen["raters"]) == 5
    assert dashboard.request("GET", "/api/session")[0] == 401
    assert dashboard.request("POST", "/api/tasks", {"count": 1})[0] == 401


def test_a_page_of_another_site_is_refused(server, one, caplog):
    body = {"count": 1}
    with caplog.at_level(logging.WARNING, "mmrlhf_jax.feedback"):
        for origin in (
            "http://evil.example",
            "null",
            f"http://127.0.0.1:{one.port + 1}",
            f"https://127.0.0.1:{one.port}",
        ):
            assert one.request("POST", "/api/tasks", body, {"Origin": origin})[0] == 403
    assert caplog.text.count("Origin") == 4
    assert one.request("POST", "/api/tasks", body, {"Origin": ""})[0] == 403  # left out altogether
    for token in ("", "x", server.client(2).csrf):
        assert one.request("POST", "/api/tasks", body, {"X-CSRF-Token": token})[0] == 403
    assert one.request("PUT", "/api/tasks", body, {"Origin": "http://evil.example"})[0] == 403


def test_a_rebound_name_is_refused(one):
    for host in (
        "evil.example",
        f"evil.example:{one.port}",
        "127.0.0.1",
        f"127.0.0.1:{one.port}.evil.example",
    ):
        for path in ("/", "/api/session", "/style.css"):
            assert one.request("GET", path, headers={"Host": host})[0] == 421


@pytest.mark.parametrize(
    ("header", "sent"),
    [
        ("Content-Length: 10000000", b""),
        ("Content-Length: " + "9" * 30, b""),
        ("Transfer-Encoding: chunked", b"%x\r\n" % (MAX_BODY + 1) + b"x" * (MAX_BODY + 1) + b"\r\n"),
    ],
)
def test_large_bodies_are_cut_off(one, header, sent):
    lines = [
        "POST /api/tasks HTTP/1.1",
        f"Host: 127.0.0.1:{one.port}",
        f"Origin: {one.origin}",
        header,
        "",
        "",
    ]
    with socket.create_connection(("127.0.0.1", one.port), timeout=10) as connection:
        connection.sendall("\r\n".join(lines).encode() + sent)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))  # it is closed before the end came
    assert answer.split()[1] in (b"413", b"400") and b"500" not in answer.splitlines()[0]


def test_pictures_go_by_id_alone(server, one):
    (task,) = one.tasks()
    status, headers, body = one.request("GET", f"/media/{task['picture']}")
    assert (status, headers["content-type"], body[8:12]) == (200, "image/webp", b"WEBP")
    assert server.client().request("GET", f"/media/{task['picture']}")[0] == 401
    for name in (
        "../store.sqlite",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e/x",
        "a" * 64,
        "A" * 64,
        task["picture"] + "%00",
    ):
        assert one.request("GET", f"/media/{name}")[0] in (404, 422)
    for path in ("/../pyproject.toml", "/page/index.html", "/app.js/..", "/docs", "/openapi.json"):
        assert one.request("GET", path)[0] == 404


def test_every_answer_forbids_foreign_code(server, one):
    for path in ("/", "/dashboard", "/app.js", "/api/session", "/nothing", "/enter/x"):
        _, headers, body = one.request("GET", path)
        policy = headers["content-security-policy"]
        assert (
            "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        )
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert b"onclick=" not in body.lower() and b"<style" not in body.lower() and b"innerHTML" not in body
    _, headers, _ = one.request("GET", Links(server.store.secret).path(1))
    assert "HttpOnly" in headers["set-cookie"] and "SameSite=lax" in headers["set-cookie"]


def test_what_is_refused_is_logged(server, one, caplog):
    picture = one.tasks()[0]["picture"]
    with caplog.at_level(logging.INFO, "mmrlhf_jax.feedback"):
        one.request("GET", "/enter/1-x")
        server.client().request("GET", f"/media/{picture}")
        one.request("POST", "/api/tasks", {"count": 1}, {"X-CSRF-Token": "x"})
        one.request("GET", "/", headers={"Host": "evil.example"})
        with contextlib.suppress(OSError):  # it is answered before all of it was sent
            one.request("POST", "/api/name", b"x" * (MAX_BODY + 1))
        one.request("POST", "/api/undo", {"key": "' OR 1=1 --", "undone": "x"})
    told = (
        "unknown link",
        "401",
        "403",
        "Host",
        f"more than {MAX_BODY} bytes",
        "fields are missing or wrong",
    )
    assert all(part in caplog.text for part in told), caplog.text
    assert one.cookie.split("=")[1] not in caplog.text and one.csrf not in caplog.text


SQL = "'); DROP TABLE judgements; --"


def test_sql_is_text_in_every_field(tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        store.add_raters([SQL])
        picture = add_picture(store, np.zeros((8, 8, 3), np.uint8), SQL)
        store.add_items([Item("correct", SQL, (SQL,), picture, extras={SQL: SQL})])
        with running(store) as started:
            rater = started.client(1)
            (task,) = rater.tasks()
            assert (task["prompt"], task["answers"]) == (SQL, [SQL])
            assert rater.judge("sql-key-1", task["item"], {"text": f"{SQL}{SQL}"})[0] == 200
            assert rater.json("POST", "/api/name", {"name": SQL}) == (200, {"name": SQL})
            for field in ("key", "undone"):
                body = {"key": "sql-key-2", "undone": "sql-key-1"} | {field: SQL}
                assert rater.json("POST", "/api/undo", body)[0] == 422
            for path in ("/media/", "/enter/"):
                assert rater.request("GET", path + SQL.replace(" ", "%20"))[0] in (403, 404)
        (row,) = store.standing()
        assert row.answer == {"text": f"{SQL}{SQL}"} and store.raters()[0].name == SQL


def test_a_page_of_another_store_with_the_same_links_is_told_to_reload(tmp_path):
    with Store(tmp_path / "a.sqlite") as first, Store(tmp_path / "b.sqlite") as second:
        for store in (first, second):
            store.add_items([Item("compare", "", ("x", "y"))])
        first.add_raters(["one"])
        second.inherit(first)
        with running(first) as one, running(second) as two:
            rater, other = one.client(1), two.client()
            other.cookie, other.csrf = rater.cookie, rater.csrf
            assert other.request("POST", "/api/tasks", {"count": 1})[0] == 403
            status, session = other.json("GET", "/api/session")
            assert status == 200 and session["store"] != rater.json("GET", "/api/session")[1]["store"]


def test_files_are_sent_once_and_sounds_in_parts(server, one):
    status, headers, body = one.request("GET", "/app.js")
    assert status == 200 and body
    again = one.request("GET", "/app.js", headers={"If-None-Match": headers["etag"]})
    assert again[0] == 304 and again[2] == b""
    (task,) = one.tasks()
    whole = one.request("GET", f"/media/{task['picture']}")[2]
    for asked, part in (("bytes=0-3", whole[:4]), ("bytes=4-", whole[4:]), ("bytes=0-999999", whole)):
        status, headers, body = one.request("GET", f"/media/{task['picture']}", headers={"Range": asked})
        assert (status, body) == (206, part) and headers["content-range"].endswith(f"/{len(whole)}")
    assert one.request("GET", f"/media/{task['picture']}", headers={"Range": "bytes=9-1"})[0] == 416
    assert one.request("GET", f"/media/{task['picture']}", headers={"Range": "lines=1"})[2] == whole


def test_a_disk_that_refuses_is_told_and_tried_again(server, one, monkeypatch):
    (task,) = one.tasks()

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(server.store, "_insert", full)
        assert one.judge("disk-full-1", task["item"], {"choice": "a"})[0] == 503
    assert one.judge("disk-full-1", task["item"], {"choice": "a"})[1]["repeated"] is False


def test_a_backup_while_it_is_served(server, one, tmp_path):
    (task,) = one.tasks()
    assert one.judge("backup-key-1", task["item"], {"choice": "b"})[0] == 200
    with Store(server.store.path) as other:  # as the flag --backup does, from another process
        other.backup(tmp_path / "copy.sqlite")
    with Store(tmp_path / "copy.sqlite") as copy:
        assert copy.keys()[-1] == "backup-key-1"
