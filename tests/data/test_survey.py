"""What a survey counts, on small sets whose counts are known."""

import json

import numpy as np

from mmrlhf_jax.data.clicks import ClickLog
from mmrlhf_jax.data.preferences import PreferenceSet, read_preferences
from mmrlhf_jax.data.ratings import RatingSet
from mmrlhf_jax.data.survey import describe_survey, survey
from mmrlhf_jax.data.unpaired import LabelledSet
from tests.picture_files import in_json, picture, write_lines

IMAGES = np.stack([picture("red"), picture("blue"), picture("grey")])


def pairs(*rows, **columns):
    """Pairs from (picture, prompt, chosen, rejected)."""
    index, prompts, chosen, rejected = (list(column) for column in zip(*rows, strict=True))
    return PreferenceSet(IMAGES, np.array(index, np.int32), prompts, chosen, rejected, **columns)


def test_pairs():
    found = survey(
        pairs(
            (0, "p", "one two", "one"),
            (0, "p", "one two", "one"),  # repeated
            (0, "p", "one", "one two"),  # contradicts both
            (0, "p", "one two", "one"),  # a tie neither repeats nor contradicts
            (1, "p", "one", "one two"),  # about another picture
            (1, "q", "a b c", "x y z"),  # equally long
            tie_P=np.array([False, False, False, True, False, False]),
            extras={"chosen_first": [True, True, False, True, True, True]},
            skipped=[
                "a.jsonl, line 3, column chosen: 3 is no text",
                "a.jsonl, line 4, picture column images: no",
            ],
        )
    )
    assert json.loads(json.dumps(found)) == found
    assert found["judgements"] == 6
    assert found["pictures"] == 2
    assert found["judgements_of_a_picture"] == {"least": 2, "median": 3.0, "most": 4}
    assert (found["ties"], found["repeated"], found["contradicted"]) == (1, 1, 1)
    assert found["longer_wins"] == 0.5  # two of the four with unequal lengths
    assert found["words"]["chosen"] == {"least": 1, "median": 2.0, "most": 3}
    assert found["first_wins"] == 0.8
    assert (found["left_out"], found["unreadable_pictures"]) == (2, 1)


def test_pairs_of_pictures_are_told_apart_by_their_pictures():
    rows = [(0, "p", "", ""), (1, "p", "", ""), (0, "p", "", "")]
    found = survey(pairs(*rows, rejected_image_index_P=np.array([1, 0, 2], np.int32)))
    assert (found["repeated"], found["contradicted"]) == (0, 1)
    assert found["pictures"] == 3
    assert found["judgements_of_a_picture"]["most"] == 3
    assert found["longer_wins"] is None
    assert "first_wins" not in found


def test_unreadable_pictures_of_a_file_are_counted(tmp_path):
    row = {"prompt": "", "chosen": "a", "rejected": "b"}
    path = write_lines(
        tmp_path / "a.jsonl",
        row | {"images": [in_json("red")]},
        row | {"images": [{"bytes": "aGVsbG8="}]},
        row | {"images": ["gone.png"]},
        row | {"images": [in_json("red")], "chosen": None},
    )
    found = survey(read_preferences(path, 8, on_bad="skip"))
    assert (found["judgements"], found["left_out"], found["unreadable_pictures"]) == (1, 3, 2)
    assert len(found["first_left_out"]) == 3


def test_ratings():
    nan = np.nan
    found = survey(
        RatingSet(
            IMAGES,
            np.array([0, 0, 0, 1], np.int32),
            ["p"] * 4,
            ["one", "one", "one", "one two three"],
            {"help": np.array([1, 1, 2, 5], np.float32), "truth": np.array([nan, nan, nan, 3], np.float32)},
            {"help": (1, 5), "truth": (1, 5)},
        )
    )
    help_, truth = found["aspects"]["help"], found["aspects"]["truth"]
    assert (help_["rated"], help_["mean"], help_["times"]) == (4, 2.25, {"1": 2, "2": 1, "5": 1})
    assert (help_["repeated"], help_["contradicted"]) == (1, 1)
    assert np.isclose(help_["correlation_with_words"], np.corrcoef([1, 1, 1, 3], [1, 1, 2, 5])[0, 1])
    assert (truth["rated"], truth["correlation_with_words"]) == (1, None)
    assert json.loads(json.dumps(found)) == found


def test_labels():
    labels = np.array([True, False, True, True])
    found = survey(LabelledSet(IMAGES, np.zeros(4, np.int32), [""] * 4, ["a", "a", "b c", "b c"], labels))
    assert (found["good"], found["repeated"], found["contradicted"]) == (0.75, 1, 1)
    assert found["words"]["bad"] == {"least": 1, "median": 1.0, "most": 1}


def test_clicks():
    log = ClickLog(
        IMAGES,
        np.zeros(2, np.int32),
        ["", ""],
        [["a", "b"], ["c"]],
        np.array([[1, 0], [0, -1]], np.int32),
        np.array([[False, True], [False, False]]),
        np.array([[np.nan, 3], [np.nan, np.nan]], np.float32),
    )
    found = survey(log)
    assert found["clicked_at_position"] == {"0": 0.5, "1": 0.0}
    assert (found["lists_without_a_click"], found["known_seconds"]) == (1, 1)


def test_text():
    text = describe_survey(survey(pairs((0, "p", "one two", "one"), skipped=["a.jsonl, line 3: bad"])))
    lines = text.splitlines()
    assert "ties: 0" in lines
    assert "longer wins: 1" in lines
    assert "words" in lines
    assert "  chosen: least 2, median 2, most 2" in lines
    assert "first left out: a.jsonl, line 3: bad" in lines
