"""Judgements as files and back: TRL's columns, what other tools export, and what a file offers to judge."""

import csv
import io
import json
import wave

import numpy as np
import pytest
from PIL import Image

from mmrlhf_jax.data.clicks import ClickLog
from mmrlhf_jax.data.images import encode_webp
from mmrlhf_jax.data.judgements import read_judgements
from mmrlhf_jax.data.preferences import PreferenceSet, read_preferences, write_preferences
from mmrlhf_jax.data.ratings import RatingSet
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.export import export, to_records
from mmrlhf_jax.feedback.imports import import_judgements
from mmrlhf_jax.feedback.judged_sets import to_clicks, to_preferences, to_ratings
from mmrlhf_jax.feedback.media import add_picture, add_sound
from mmrlhf_jax.feedback.source_files import read_groups
from mmrlhf_jax.feedback.sources import make_items
from mmrlhf_jax.feedback.store import Lease, Store
from mmrlhf_jax.feedback.tasks import Item, attention_check


def picture(seed: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store" / "store.sqlite") as opened:
        opened.add_raters(["ann", "bob"])
        yield opened


def judge(store: Store, rater: int, item: int, answer, shown):
    lease = Lease(item, rater, shown, "information", 0.0)
    store.lease(lease)
    store.judge(f"{rater}-{item}", rater, store.items()[item], lease, answer, 2.5, time=1e9)


@pytest.fixture
def judged(store):
    """A store with a judgement of each kind."""
    first, second = (add_picture(store, picture(seed), "") for seed in (0, 1))
    store.add_items(
        [
            Item("compare", "what?", ("cat", "dog"), first, extras={"n": 1}),
            Item("compare", "what?", ("cat", "cow"), second),
            Item("list", "", ("x", "y", "z"), second),
            Item("correct", "", ("bad txt",), first),
            Item("rate", "what?", ("dog",), first),
            attention_check(0),
            Item("compare", "no picture", ("x", "y")),
        ]
    )
    judge(store, 1, 1, {"choice": "b"}, (1, 0))
    judge(store, 2, 2, {"choice": "both_bad"}, (0, 1))
    judge(store, 1, 3, {"clicks": [2], "dwell_seconds": [1, 2, 3]}, (0, 2, 1))
    judge(store, 2, 4, {"text": "good text"}, (0,))
    judge(store, 1, 5, {"ratings": {"accurate": 5, "fluent": 4, "considerate": 1}}, (0,))
    judge(store, 2, 5, {"ratings": {"accurate": 4, "fluent": 4, "considerate": 1}}, (0,))
    judge(store, 1, 6, {"choice": "a"}, (0, 1))
    judge(store, 1, 7, {"choice": "a"}, (1, 0))
    judge(store, 2, 7, {"choice": "b"}, (1, 0))
    store.undo("undo", 2, "2-7", 1e9)
    return store


def test_preferences_are_what_was_said(judged):
    pairs = to_preferences(judged)
    said = [("dog", "cat"), ("z", "x"), ("good text", "bad txt"), ("x", "y")]
    assert list(zip(pairs.chosen, pairs.rejected, strict=True)) == said
    assert pairs.prompts == ["what?", "", "", "no picture"]
    assert pairs.extras["rater"] == ["ann", "ann", "bob", "ann"]
    assert pairs.extras["kind"] == ["compare", "list", "correct", "compare"]
    assert pairs.extras["chosen_shown_first"] == [True, False, None, False]
    assert pairs.extras["chosen_ratings"][0] == {"accurate": 4.5, "fluent": 4.0, "considerate": 1.0}
    assert pairs.extras["rejected_ratings"][0] is None
    assert pairs.extras["time"][0] == "2001-09-09T01:46:40.000+00:00" and pairs.extras["seconds"][0] == 2.5
    shown = pairs.images_NxHxWxC[pairs.image_index_P]
    for image, expected in zip(
        shown, [picture(0), picture(1), picture(0), np.full((16, 16, 3), 255)], strict=True
    ):
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("beside", [False, True])
def test_all_four_files_say_the_same(judged, tmp_path, beside):
    folder = tmp_path / "out"
    counts = {"judgements": 8, "preferences": 4, "ratings": 2, "clicks": 1}
    assert export(judged, folder, beside=beside) == counts
    expected = to_preferences(judged)
    for name in ("preferences", "conversations"):
        for ending in ("parquet", "jsonl"):
            read = read_preferences(folder / f"{name}.{ending}", 16)
            assert (read.prompts, read.chosen, read.rejected) == (
                expected.prompts,
                expected.chosen,
                expected.rejected,
            )
            assert read.extras == expected.extras, (name, ending)
            np.testing.assert_array_equal(
                read.images_NxHxWxC[read.image_index_P], expected.images_NxHxWxC[expected.image_index_P]
            )
    row = json.loads((folder / "conversations.jsonl").read_text().splitlines()[0])
    assert row["prompt"] == [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "what?"}]}
    ]
    assert row["chosen"][0]["role"] == "assistant" and ("path" in row["images"][0]) is beside
    assert (folder / "conversations_pictures").is_dir() is beside


def test_ratings_and_clicks_are_files_that_the_reward_stage_reads(judged, tmp_path):
    export(judged, tmp_path)
    for ending in ("parquet", "jsonl"):
        rated = read_judgements(tmp_path / f"ratings.{ending}", 16)
        assert (
            isinstance(rated, RatingSet)
            and rated.answers == ["dog", "dog"]
            and rated.prompts == ["what?"] * 2
        )
        assert {aspect: column.tolist() for aspect, column in rated.ratings.items()} == {
            "accurate": [5, 4],
            "fluent": [4, 4],
            "considerate": [1, 1],
        }
        assert set(rated.levels.values()) == {(1.0, 5.0)} and rated.extras["rater"] == ["ann", "bob"]
        np.testing.assert_array_equal(rated.images_NxHxWxC[rated.image_index_R[0]], picture(0))
        log = read_judgements(tmp_path / f"clicks.{ending}", 16)
        # the page showed x, z, y, where z (number 2) was clicked
        assert isinstance(log, ClickLog) and log.answers == [["x", "z", "y"]]
        assert log.position_LxK.tolist() == [[0, 1, 2]] and log.clicked_LxK.tolist() == [[False, True, False]]
        assert log.dwell_LxK.tolist() == [[1, 3, 2]] and log.extras["random_order"] == [True]
        np.testing.assert_array_equal(log.images_NxHxWxC[log.image_index_L[0]], picture(1))
    for collect in (to_ratings, to_clicks):
        with Store(tmp_path / "empty.sqlite") as empty, pytest.raises(UserError, match="judge some items"):
            collect(empty)


def test_shorter_lists_end_before_longer_ones(store):
    store.add_items([Item("list", "", ("x", "y")), Item("list", "", ("x", "y", "z"))])
    judge(store, 1, 1, {"clicks": [], "dwell_seconds": [1, 2]}, (1, 0))
    judge(store, 1, 2, {"clicks": [0], "dwell_seconds": [1, 2, 3]}, (2, 0, 1))
    judge(store, 2, 2, {"choice": "skip"}, (2, 0, 1))
    log = to_clicks(store)
    assert log.answers == [["y", "x"], ["z", "x", "y"]]
    assert log.position_LxK.tolist() == [[0, 1, -1], [0, 1, 2]]
    assert log.clicked_LxK.tolist() == [[False] * 3, [False, True, False]]
    np.testing.assert_array_equal(log.dwell_LxK, [[2, 1, np.nan], [3, 1, 2]])


def test_a_sound_comes_back(store, tmp_path):
    with wave.open(str(tmp_path / "beep.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\1\2" * 80)
    heard = add_sound(store, tmp_path / "beep.wav", "")
    store.add_items([Item("compare", "", ("x", "y"), sound=heard)])
    judge(store, 1, 1, {"choice": "a"}, (1, 0))
    export(store, tmp_path / "out")
    with Store(tmp_path / "second.sqlite") as second:
        assert import_judgements(second, tmp_path / "out" / "judgements.jsonl") == 1
        assert second.items()[1].sound == heard and second.media(heard) == store.media(heard)


def test_an_export_comes_back(judged, tmp_path):
    export(judged, tmp_path)
    with Store(tmp_path / "second" / "store.sqlite") as second:
        assert import_judgements(second, tmp_path / "judgements.jsonl") == 8
        assert import_judgements(second, tmp_path / "judgements.jsonl") == 0
        assert [r.name for r in second.raters()] == ["ann", "bob"]
        before, after = to_preferences(judged), to_preferences(second)
        assert (after.chosen, after.rejected, after.prompts) == (
            before.chosen,
            before.rejected,
            before.prompts,
        )
        for name in ("rater", "time", "chosen_shown_first", "chosen_ratings"):
            assert after.extras[name] == before.extras[name]


def test_nothing_judged_yet(store, tmp_path):
    with pytest.raises(UserError, match="judge some items first"):
        to_preferences(store)
    assert set(export(store, tmp_path).values()) == {0}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["judgements.jsonl"]


def test_label_studio(store, tmp_path):
    def annotation(by, kind, value, **more):
        result = [{"type": "textarea", "value": {"text": ["a remark"]}}, {"type": kind, "value": value}]
        return {
            "completed_by": by,
            "result": result,
            "created_at": "2024-05-01T10:00:00.5Z",
            "lead_time": 4.25,
            **more,
        }

    Image.fromarray(picture(3)).save(tmp_path / "1-cat.png")
    data = {"prompt": "what?", "answer1": "a cat", "answer2": "a dog", "image": "/data/upload/7/1-cat.png"}
    records = [
        {
            "id": 1,
            "data": data,
            "annotations": [
                annotation(3, "pairwise", {"selected": "right"}),
                annotation({"id": 4, "email": "x@example.org"}, "pairwise", {"selected": "left"}),
                annotation(5, "choices", {"choices": ["tie"]}),
                annotation(6, "pairwise", {"selected": "left"}, was_cancelled=True),
            ],
        },
        {"id": 2, "data": {"text1": "one", "text2": "two"}, "annotations": []},
    ]
    (tmp_path / "ls.json").write_text(json.dumps(records))
    assert import_judgements(store, tmp_path / "ls.json") == 3
    rows = to_records(store)
    assert [(row["rater"], row["answer"]["choice"], row["seconds"]) for row in rows] == [
        ("label-studio-3", "b", 4.25),
        ("label-studio-4", "a", 4.25),
        ("label-studio-5", "tie", 4.25),
    ]
    assert rows[0]["time"] == "2024-05-01T10:00:00.500+00:00" and rows[0]["prompt"] == "what?"
    pairs = to_preferences(store)
    assert pairs.chosen == ["a dog", "a cat"]
    np.testing.assert_array_equal(pairs.images_NxHxWxC[0], picture(3))


def test_argilla(store, tmp_path):
    fields = {"instruction": "what?", "response_a": "a cat", "response_b": "a dog"}

    def record(*values, status="submitted"):
        users = [f"{i}2345678-0000" for i in range(len(values))]
        said = [{"value": v, "user_id": u, "status": status} for v, u in zip(values, users, strict=True)]
        return {"id": "x", "fields": fields, "responses": {"better": said}}

    ranking = [{"value": "response_b", "rank": 1}, {"value": "response_a", "rank": 2}]
    shared = [{"value": "response_b", "rank": 1}, {"value": "response_a", "rank": 1}]
    records = [record("response_a", ranking, shared, "unsure"), record("response_b", status="draft")]
    (tmp_path / "argilla.json").write_text(json.dumps(records))
    assert import_judgements(store, tmp_path / "argilla.json") == 3
    assert [(row["rater"], row["answer"]["choice"]) for row in to_records(store)] == [
        ("argilla-02345678", "a"),
        ("argilla-12345678", "b"),
        ("argilla-22345678", "tie"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", "{}", "list of records"),
        ("x.json", "[1]", "list of records"),
        ("x.json", '[{"a": 1}]', "record 1"),
        ("x.json", "[", "not JSON"),
        ("x.json", "[]", "no judgement"),
        ("x.jsonl", '{"kind": "compare"}\n', "line 1"),
        ("x.jsonl", "{\n", "line 1"),
    ],
)
def test_foreign_files_are_told(store, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        import_judgements(store, tmp_path / name)
    assert store.standing() == []


def test_items_of_a_preference_file(store, tmp_path):
    pairs = PreferenceSet(
        np.stack([picture(0), picture(1)]),
        np.array([0, 1, 0], np.int32),
        ["p"] * 3,
        ["a", "b", "c"],
        ["d", "e", "f"],
    )
    for ending in ("jsonl", "parquet"):
        write_preferences(tmp_path / f"pairs.{ending}", pairs)
    assert read_groups(tmp_path / "pairs.parquet", store) == read_groups(tmp_path / "pairs.jsonl", store)
    groups = read_groups(tmp_path / "pairs.jsonl", store)
    assert [group.answers for group in groups] == [("a", "d"), ("b", "e"), ("c", "f")]
    assert groups[0].picture == groups[2].picture != groups[1].picture
    assert store.media(groups[0].picture)[0] == "image/webp"
    items = make_items(groups * 20, "compare", raters=3, overlap=0.25, checks=True, seed=0)
    asked = [item for item in items if not item.is_check]
    assert len(asked) == 60 and sum(item.wanted == 2 for item in asked) == 15 and len(items) > 60
    turned = [item.answers[0] in "def" for item in asked]
    assert 15 < sum(turned) < 45  # what the file prefers must not always be a
    assert all(item.extras["file_prefers"] in item.answers for item in asked)
    alone = make_items(groups, "compare", raters=1, overlap=0.5, checks=False, seed=0)
    assert [item.wanted for item in alone] == [1, 1, 1]


def test_items_of_captions_and_prompts(store, tmp_path):
    for seed in (0, 1):
        Image.fromarray(picture(seed)).save(tmp_path / f"{seed}.png")
    with (tmp_path / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ("image", "caption"),
                ("0.png", "one"),
                ("1.png", 'a "quoted", one'),
                ("0.png", "two"),
                ("0.png", "one"),
            ]
        )
    groups = read_groups(tmp_path / "captions.csv", store)
    assert [group.answers for group in groups] == [("one", "two", "one"), ('a "quoted", one',)]
    counts = {
        kind: len(make_items(groups, kind, raters=1, overlap=0, checks=False, seed=0))
        for kind in ("compare", "rate", "list", "correct")
    }
    assert counts == {"compare": 1, "rate": 3, "list": 1, "correct": 3}
    with wave.open(str(tmp_path / "beep.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\1\2" * 80)
    rows = [
        {"prompt": "hear", "responses": ["x", "y"], "audio": "beep.wav"},
        {"prompt": "see", "completion": "z", "image": "1.png"},
    ]
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    heard, seen = read_groups(tmp_path / "prompts.jsonl", store)
    assert (heard.answers, seen.answers, heard.picture, seen.sound) == (("x", "y"), ("z",), None, None)
    assert store.media(heard.sound)[0] == "audio/wav" and store.media(heard.sound)[1].endswith(b"\1\2" * 80)


def test_pictures_keep_their_full_size_and_shape(store, tmp_path):
    wide = np.random.default_rng(0).integers(0, 256, (90, 200, 3), dtype=np.uint8)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    rows = [
        {"prompt": "", "chosen": "a", "rejected": "b", "images": [{"path": "wide.png"}]},
        {"prompt": "", "chosen": "c", "rejected": "d", "images": [{"path": "wide.png"}], "tie": True},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    sure, tied = read_groups(tmp_path / "pairs.jsonl", store)
    shown = np.asarray(Image.open(io.BytesIO(store.media(sure.picture)[1])))
    np.testing.assert_array_equal(shown, wide)
    assert (sure.extras, tied.extras) == ({"file_prefers": "a"}, {"file_prefers": None})
    rows[0]["images"] = [{"path": "wide.png"}, {"path": "wide.png"}]
    (tmp_path / "pairs.jsonl").write_text(json.dumps(rows[0]))
    with pytest.raises(UserError, match="pictures of their own"):
        read_groups(tmp_path / "pairs.jsonl", store)


def test_prompts_that_wait_for_answers(store, tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "0.png")
    (tmp_path / "p.jsonl").write_text('{"image": "0.png"}\n{"image": "0.png"}\n{"prompt": "Who?"}\n')
    seen, asked = read_groups(tmp_path / "p.jsonl", store)
    assert (seen.answers, asked.answers, asked.prompt) == ((), (), "Who?") and seen.picture is not None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "image,caption\n", "no record"),
        ("x.csv", "a,b\n1,2\n", "no column of answers"),
        ("x.csv", "image,caption\nmissing.png,a\n", "missing.png"),
        ("x.csv", "image,caption\n../../etc/passwd,a\n", "lies outside"),
        ("x.csv", "image,caption\nhttp://example.org/a.png,a\n", "is a URL"),
        ("x.csv", "image,caption\n,a\n", "row 1: column image is empty"),
        ("x.jsonl", "", "no record"),
        ("x.jsonl", "[1]\n", "line 1"),
        ("x.jsonl", '{"other": "p"}\n', "line 1: neither an answer"),
        ("x.jsonl", '{"prompt": 5, "answers": ["x"]}\n', "line 1"),
        ("x.jsonl", '{"prompt": "p", "answers": ["\\ud800"]}\n', "line 1"),
        ("x.jsonl", '{"prompt": "p", "answers": ["x"], "audio": "x.jsonl"}\n', "WAV"),
        ("x.txt", "a", "such a file ends in .parquet, .jsonl"),
    ],
)
def test_files_that_cannot_be_judged_are_told(store, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_groups(tmp_path / name, store)


def test_media_are_made_anew_without_what_was_hidden(store, tmp_path):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "SECRET place"
    Image.fromarray(picture(0, 2000)).save(buffer, "JPEG", exif=exif)
    assert b"SECRET" in buffer.getvalue()
    data = store.media(add_picture(store, buffer.getvalue() + b"SECRET", "x"))[1]
    assert b"SECRET" not in data and max(Image.open(io.BytesIO(data)).size) == 1600
    small = store.media(add_picture(store, encode_webp(picture(1)), "x"))[1]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(small))), picture(1))
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(b"\0\0")
    with (tmp_path / "a.wav").open("ab") as file:
        file.write(b"LIST\x06\0\0\0SECRET")
    assert b"SECRET" not in store.media(add_sound(store, tmp_path / "a.wav", "x"))[1]
