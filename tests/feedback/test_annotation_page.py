"""The annotation page in a real browser: keys, mouse and touch, lost connections, closed tabs, and its looks.

Screenshots go to the folder that MMRLHF_SCREENSHOTS names, else to the test's own.
"""

import os
import signal
import time
import wave
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from mmrlhf_jax.data.emoji import load_emoji
from mmrlhf_jax.feedback.export import export
from mmrlhf_jax.feedback.judged_sets import to_preferences
from mmrlhf_jax.feedback.media import add_picture, add_sound
from mmrlhf_jax.feedback.store import Store
from mmrlhf_jax.feedback.tasks import Item
from scripts.benches.raters import ServerProcess
from tests.annotation import train_reward
from tests.browser import Browser, Page

pytestmark = pytest.mark.browser

SCRIPT = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"
READY = "!document.getElementById('task').hidden"
KEPT = "document.body.dataset.waiting === '0'"


@pytest.fixture(scope="module")
def browser(chromium, tmp_path_factory):
    started = Browser(chromium, tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture
def shots(tmp_path):
    return Path(os.environ.get("MMRLHF_SCREENSHOTS") or tmp_path)


@pytest.fixture
def pictures():
    captions = load_emoji("feedback").take(range(0, 400, 20))
    return list(zip(captions.images_NxHxWxC, captions.names, strict=True))


def serve(tmp_path: Path, items, raters: int, environment) -> ServerProcess:
    with Store(tmp_path / "store.sqlite") as store:
        store.add_raters([f"rater-{i + 1}" for i in range(raters)])
        store.add_items([item(store) for item in items])
    return ServerProcess(tmp_path / "store.sqlite", environment)


def enter(browser: Browser, server: ServerProcess, who: int, width: int, height: int, **options) -> Page:
    page = browser.page(width, height, **options)
    page.open(f"http://127.0.0.1:{server.port}{server.links[who - 1]}")
    return page


def press(page: Page, key: str) -> None:
    """Presses a key on the item that is there, and waits for what follows."""
    page.wait(READY)
    before = page.js("state.task.item")
    page.key(key)
    page.wait(f"!state.task || state.task.item !== {before}")


def standing(path: Path):
    with Store(path) as store:
        return store.standing()


def test_twenty_items_by_keys_mouse_and_touch_with_everything_going_wrong(
    browser, shots, pictures, tmp_path, user_environment
):
    def comparison(image, name):
        texts = (name, SCRIPT) if name == pictures[0][1] else (name, f"not {name}")
        return lambda store: Item("compare", "What is shown?", texts, add_picture(store, image, name))

    server = serve(tmp_path, [comparison(*one) for one in pictures], 1, user_environment)
    path = tmp_path / "store.sqlite"
    began = time.monotonic()
    try:
        page = enter(browser, server, 1, 1280, 800)
        page.wait(READY)
        page.wait("document.getElementById('picture').naturalWidth === 64")
        page.screenshot(shots / "compare-desktop.png")
        for key in "12tbs":
            press(page, key)
        page.click(".answer", 1)
        page.wait(f"state.done === 6 && {KEPT}")
        first_time = [row.answer["choice"] for row in standing(path)]
        assert first_time[2:5] == ["tie", "both_bad", "skip"] and set(first_time[:2]) <= {"a", "b"}

        page.key("z")  # undo, and judge it anew
        page.wait("state.done === 5")
        press(page, "t")
        page.wait(f"state.done === 6 && {KEPT}")
        assert [row.answer["choice"] for row in standing(path)] == [*first_time[:5], "tie"]

        page.key("p")
        page.wait("document.getElementById('message-title').textContent === 'Paused'")
        page.key("1")
        page.key("p")
        page.wait(READY)
        assert page.js("state.done") == 6

        assert server.kill() == -signal.SIGKILL  # the server dies, the rater goes on
        for key in "121":
            press(page, key)
        page.wait("document.getElementById('connection').textContent.includes('3 kept here')")
        page.screenshot(shots / "offline-desktop.png")
        page.key("z")  # an undo of what was never sent
        page.wait("state.outbox.size === 2")
        press(page, "2")
        page.close()  # and closes the tab while three answers wait in it
        server.start()
        page = enter(browser, server, 1, 390, 844, phone=True, dark=True)
        page.wait(READY)
        page.wait(KEPT)
        assert len(standing(path)) == 9
        page.screenshot(shots / "compare-phone-dark.png")
        page.tap("#undo")  # what was judged before the tab was closed can still be undone
        page.wait(f"state.done === 8 && {KEPT}")
        page.wait("state.outbox.size === 0")
        assert len(standing(path)) == 8
        press(page, "1")
        page.tap(".answer", 0)
        page.wait("state.done === 10")
        for _ in range(10):
            press(page, "1")
        page.wait("document.getElementById('message-title').textContent === 'Done, thank you'")
        page.screenshot(shots / "done-phone-dark.png")
        assert page.js("window.hacked === undefined && document.scripts.length === 2")
        page.close()
        ended = time.monotonic()
    finally:
        server.kill()
    with Store(path) as store:
        rows, pairs = store.standing(), to_preferences(store)
    assert len(rows) == len({row.item for row in rows}) == 20
    seconds = [row.seconds for row in rows]
    assert all(0 < one < 60 for one in seconds), seconds
    assert sum(seconds) < ended - began, "no time is charged to two items"
    # Key 1 took what stood first, whichever it was: both orders came, and the record says which.
    ones = rows[-10:]
    assert all("ab".index(row.answer["choice"]) == row.shown[0] for row in ones)
    assert {row.shown[0] for row in ones} == {0, 1}
    assert len(pairs) == sum(row.answer["choice"] in ("a", "b") for row in rows) >= 15


@pytest.mark.slow
def test_what_was_judged_in_the_browser_trains_a_reward_model(
    browser, pictures, smoke_run, tmp_path, user_environment
):
    def comparison(image, name):
        return lambda store: Item("compare", "", (name, f"not {name}"), add_picture(store, image, name))

    server = serve(tmp_path, [comparison(*one) for one in pictures], 1, user_environment)
    try:
        page = enter(browser, server, 1, 1280, 800)
        for number in range(20):
            press(page, "12"[number % 2])
        page.wait(f"state.done === 20 && {KEPT}")
        page.close()
    finally:
        server.kill()
    with Store(tmp_path / "store.sqlite") as store:
        assert export(store, tmp_path / "judged")["preferences"] == 20
    result = train_reward(smoke_run, tmp_path / "run", tmp_path / "judged" / "preferences.parquet")
    assert any(name.startswith("accuracy") for name in result["held_out"]), result["held_out"]


def test_a_sound_plays(browser, tmp_path, user_environment):
    with wave.open(str(tmp_path / "beep.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\0\x20\0\xe0" * 8000)

    def item(store):
        heard = add_sound(store, tmp_path / "beep.wav", "")
        return Item("compare", "What is heard?", ("a beep", "a voice"), sound=heard)

    server = serve(tmp_path, [item], 1, user_environment)
    try:
        page = enter(browser, server, 1, 1280, 800)
        page.wait(READY)
        page.wait("document.getElementById('sound').duration === 2")
        play = "document.getElementById('sound').play()"
        page.send("Runtime.evaluate", expression=play, userGesture=True)  # as a click on it
        page.wait("document.getElementById('sound').currentTime > 0.2")
        page.close()
    finally:
        server.kill()


def test_ratings_lists_and_corrections(browser, shots, pictures, tmp_path, user_environment):
    image, name = pictures[3]

    def item(kind, *answers):
        return lambda store: Item(kind, "", answers, add_picture(store, image, name))

    server = serve(
        tmp_path,
        [item("rate", name), item("list", name, "a cat", "a dog"), item("correct", "wrogn")],
        1,
        user_environment,
    )
    try:
        page = enter(browser, server, 1, 390, 844, phone=True)
        for _ in range(3):
            page.wait(READY)
            kind = page.js("state.task.kind")
            before = page.js("state.task.item")
            page.wait("document.getElementById('picture').complete")
            if kind == "rate":
                page.key("5")
                page.key("3")
                page.key("Enter")
                assert "considerate" in page.js("document.getElementById('problem').textContent")
                page.screenshot(shots / "rate-phone.png")
                page.send("Page.reload")  # half an answer survives
                page.wait(f"typeof state !== 'undefined' && state.task && state.task.item === {before}")
                page.tap(".scale input", 11)  # considerate 2
                page.wait("!openAspect()")
                page.key("Enter")
            elif kind == "list":
                page.tap(".answer", 1)
                page.key("1")
                page.key("1")  # and back
                page.screenshot(shots / "list-phone.png")
                page.click("#controls .primary")
            else:
                page.js("document.getElementById('correction').select()")
                for letter in "wrong":
                    page.key(letter)
                page.screenshot(shots / "correct-phone.png")
                page.key("Enter", modifiers=2)
            page.wait(f"!state.task || state.task.item !== {before}")
        page.wait(f"state.done === 3 && {KEPT}")
        page.close()
    finally:
        server.kill()
    rows = {row.item: row for row in standing(tmp_path / "store.sqlite")}
    assert rows[1].answer == {"ratings": {"accurate": 5, "fluent": 3, "considerate": 2}}
    assert rows[2].answer["clicks"] == [rows[2].shown[1]]
    assert max(rows[2].answer["dwell_seconds"]) > 0
    assert rows[3].answer == {"text": "wrong"}


def test_dashboard_and_what_a_screen_reader_finds(browser, shots, pictures, tmp_path, user_environment):
    (image, name), *_ = pictures

    def item(store):
        return Item("compare", "Which?", (name, SCRIPT), add_picture(store, image, name), wanted=2)

    server = serve(tmp_path, [item] * 6, 2, user_environment)
    try:
        for who, keys in ((1, "11t12"), (2, "12t21")):
            page = enter(browser, server, who, 1280, 800, dark=True)
            page.wait(READY)
            named = page.names(("button", "textbox", "progressbar", "heading", "image"))
            assert all(text for _, text in named), named
            assert {role for role, _ in named} == {"button", "textbox", "progressbar", "heading", "image"}
            assert any(text.startswith("Answer 1: ") for role, text in named if role == "button")
            if who == 1:
                page.screenshot(shots / "compare-desktop-dark.png")
            for key in keys:
                press(page, key)
            page.key("Tab")  # the rest by the keyboard's own ways
            while not page.js("document.activeElement.matches('.answer')"):
                page.key("Tab")
            page.key("Enter")
            page.wait(f"state.done === 6 && {KEPT}")
            page.close()
        for size, options in (((1280, 900), {}), ((390, 844), {"phone": True, "dark": True})):
            page = enter(browser, server, 3, *size, **options)
            page.wait("document.querySelectorAll('#raters tr').length === 2")
            assert page.js("document.getElementById('facts').innerText").startswith("Items finished\n6 / 6")
            assert page.js("document.documentElement.scrollWidth <= innerWidth")
            assert page.js("window.hacked === undefined")
            page.screenshot(shots / f"dashboard-{size[0]}.png")
            page.close()
    finally:
        server.kill()
