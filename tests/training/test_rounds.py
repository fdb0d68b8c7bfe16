"""Rounds with people: they keep their links and open pages while models train in between."""

import contextlib
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("uvicorn")

from mmrlhf_jax.data.judgements import read_judgements
from mmrlhf_jax.data.ratings import RatingSet
from mmrlhf_jax.feedback.links import Links
from mmrlhf_jax.feedback.media import add_picture
from mmrlhf_jax.feedback.sources import Group
from mmrlhf_jax.feedback.store import Store
from mmrlhf_jax.training import annotate, rounds
from mmrlhf_jax.training.config import AnnotateConfig
from tests.annotation import Client

ANSWERS = {
    "compare": {"choice": "b"},
    "rate": {"ratings": {"accurate": 5, "fluent": 4, "considerate": 1}},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose policy writes two captions a picture, and whose training only leaves folders."""
    for stage in ("pretrain", "sft/model"):
        (tmp_path / "seed_0" / stage).mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)

    def groups(config, store):
        assert (config.policy / "seed_0" / "sft" / "model").is_dir()
        name = config.policy.name
        return [Group("", (f"{name} x", f"{name} y"), add_picture(store, image, "")) for image in images]

    def reinforce(config):
        (config.run / "seed_0" / "ppo" / "model").mkdir(parents=True)
        return {"ppo": 1}

    learned = []
    monkeypatch.setattr(annotate, "sample_groups", groups)
    monkeypatch.setattr(annotate, "_feedback", lambda config, store: [])
    monkeypatch.setattr(rounds.policy_stage, "run", reinforce)
    monkeypatch.setattr(rounds.reward, "run", lambda config: learned.append(config.preferences) or {})
    return tmp_path, learned


class Person(threading.Thread):
    """Opens a link once and judges whatever comes, for as long as the rounds last; skips the first item."""

    def __init__(self, config: AnnotateConfig, who: int):
        super().__init__(daemon=True)
        self.config, self.who = config, who
        self.client = Client(config.port)
        self.seen: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            with contextlib.suppress(OSError):
                self.look()
            time.sleep(0.05)
        self.client.close()

    def look(self) -> None:
        if not self.client.cookie:
            path = self.config.policy / "rounds" / "1" / "annotate" / "judgements.sqlite"
            socket.create_connection(("127.0.0.1", self.config.port), timeout=1).close()
            with Store(path) as store:
                self.client.enter(Links(store.secret).path(self.who))
        status, session = self.client.json("GET", "/api/session")
        assert status == 200  # the cookie of the first round holds in the second
        self.client.csrf = session["csrf"]
        for task in self.client.tasks():
            answer = ANSWERS[task["kind"]] if self.seen else {"choice": "skip"}
            self.client.judge(f"key-{session['store']}-{self.who}-{task['item']}", task["item"], answer)
            self.seen.append(task["answers"][0])


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["compare", "rate"])
def test_people_judge_two_rounds_with_the_same_links(run, kind, capsys):
    folder, learned = run
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    config = AnnotateConfig(
        preset="smoke", policy=folder, kind=kind, raters=2, overlap=0.0, check_every=0, rounds=2, port=port
    )
    people = [Person(config, who) for who in (1, 2)]
    for person in people:
        person.start()
    results = rounds.run_rounds(config)
    for person in people:
        person.over.set()
        person.join()
    items = 3 if kind == "compare" else 6
    said = [result["judged"]["judgements"] for result in results]
    assert items <= said[0] <= items + 2 and said[1] == items  # the skips of the first round
    secrets, names = set(), set()
    for number in (1, 2):
        with Store(folder / "rounds" / str(number) / "annotate" / "judgements.sqlite") as store:
            secrets.add(store.secret)
            names.add(store.name)
            assert [rater.name for rater in store.raters()] == ["rater-1", "rater-2"]
            assert all(item.answers[0].startswith(f"{number} ") for item in store.items().values())
    assert len(secrets) == 1 and len(names) == 2
    assert {text[0] for person in people for text in person.seen} == {"1", "2"}
    last = read_judgements(learned[-1], 8)
    assert learned[-1].parts[-3:-1] == ("2", "judged") and len(last) == items
    assert isinstance(last, RatingSet) is (kind == "rate")
    assert (folder / "rounds" / "2" / "seed_0" / "sft" / "model").resolve() == Path(
        folder / "rounds" / "1" / "seed_0" / "ppo" / "model"
    ).resolve()
    assert "round 2: " in capsys.readouterr().out


def test_a_store_inherits_only_where_it_has_no_raters(tmp_path):
    with Store(tmp_path / "a.sqlite") as first, Store(tmp_path / "b.sqlite") as second:
        first.add_raters(["ann", "bob"])
        second.inherit(first)
        assert second.secret == first.secret and [r.name for r in second.raters()] == ["ann", "bob"]
        first.add_raters(["eve"])
        second.inherit(first)
        assert len(second.raters()) == 2 and first.name != second.name
