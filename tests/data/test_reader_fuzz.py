"""Whatever lies in a file of judgements: its records, or a short UserError; never another exception."""

import functools
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmrlhf_jax.data.clicks import read_clicks
from mmrlhf_jax.data.judgements import read_judgements
from mmrlhf_jax.data.preferences import read_preferences
from mmrlhf_jax.data.ratings import read_ratings
from mmrlhf_jax.data.readers import SETS, read_set
from mmrlhf_jax.data.records import FORMATS, read_rows
from mmrlhf_jax.data.unpaired import read_labels
from mmrlhf_jax.errors import UserError
from tests.picture_files import in_json, put

Read = Callable[[Path, str], Any]  # (file, on_bad) → judgements

FUZZ = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
MESSAGE = 600  # characters that an error may have besides its path

# Columns of each set, with values of the kind that belongs there; the fuzz puts others in their places.
TEXT = st.sampled_from(["", "a dog", "a cat", "\u2028", "\ud83d"])
PICTURE = st.sampled_from([in_json("red"), in_json("blue"), "red.webp", "../red.webp", {"bytes": None}])
NUMBER = st.sampled_from([0, 1, 0.5, "1", "N/A", -1, math.nan, math.inf, 1e300, 10**400])
GOOD: dict[str, dict[str, st.SearchStrategy]] = {
    "preferences": {"prompt": TEXT, "chosen": TEXT, "rejected": TEXT, "tie": st.booleans()},
    "ratings": {
        "prompt": TEXT,
        "completion": TEXT,
        "ratings": st.dictionaries(st.sampled_from("ab"), NUMBER, max_size=2),
        "levels": st.just({"a": [0, 1], "b": [0, 10**400]})
        | st.dictionaries(st.sampled_from("ab"), st.lists(NUMBER, max_size=3), max_size=2),
    },
    "labels": {"prompt": TEXT, "completion": TEXT, "label": st.booleans()},
    "clicks": {
        "prompt": TEXT,
        "answers": st.lists(TEXT, min_size=2, max_size=2),
        "clicked": st.lists(st.booleans(), min_size=2, max_size=2),
        "position": st.none() | st.lists(NUMBER, min_size=2, max_size=2),
        "dwell": st.none() | st.lists(NUMBER, min_size=2, max_size=2),
    },
    "rlhf-v": {
        "text": st.sampled_from(['{"question": "q", "chosen": "a", "rejected": "b"}', "{", "[]", "1"])
    },
    "rlaif-v": {"question": TEXT, "chosen": TEXT, "rejected": TEXT},
    "trl": {"prompt": TEXT, "chosen": TEXT, "rejected": TEXT},
    "vl-rewardbench": {
        "query": TEXT,
        "response": st.lists(TEXT, max_size=3),
        "human_ranking": st.lists(NUMBER, max_size=3),
    },
    "pick-a-pic": {
        "jpg_0": PICTURE,
        "jpg_1": PICTURE,
        "label_0": NUMBER,
        "label_1": NUMBER,
        "caption": TEXT,
        "has_label": st.booleans(),
    },
    "hpdv2": {
        "prompt": TEXT,
        "image_path": st.lists(PICTURE, max_size=3),
        "human_preference": st.lists(NUMBER, max_size=3),
        "rank": st.lists(NUMBER, max_size=3),
    },
    "hpdv3": {"prompt": TEXT, "path1": PICTURE, "path2": PICTURE, "confidence": NUMBER},
    "imagerewarddb": {"prompt": TEXT, "prompt_id": TEXT, "rank": NUMBER, "image_path": PICTURE},
    "vlfeedback": {
        "prompt": TEXT,
        "completions": st.lists(
            st.fixed_dictionaries(
                {
                    "response": TEXT,
                    "annotations": st.dictionaries(
                        st.sampled_from(["Helpfulness", "Ethical Considerations", "x"]),
                        st.fixed_dictionaries({"Rating": NUMBER}) | NUMBER,
                        max_size=2,
                    ),
                }
            ),
            max_size=2,
        ),
    },
    "polaris": {"refs": st.lists(TEXT, max_size=2), "cand": TEXT, "img": PICTURE, "human_score": NUMBER},
    "nebula": {"refs": TEXT, "cand": TEXT, "img": PICTURE, "human_score": NUMBER},
    "flickr8k-expert": {"0": TEXT, "1": TEXT, "2": NUMBER, "3": NUMBER, "4": NUMBER},
}
READERS: dict[str, Read] = {
    "preferences": lambda path, on_bad: read_preferences(path, 4, on_bad=on_bad),
    "ratings": lambda path, on_bad: read_ratings(path, 4, on_bad=on_bad),
    "labels": lambda path, on_bad: read_labels(path, 4, on_bad=on_bad),
    "clicks": lambda path, on_bad: read_clicks(path, 4, on_bad=on_bad),
    **{
        name: functools.partial(lambda name, path, on_bad: read_set(name, path, 4, on_bad=on_bad), name)
        for name in SETS
    },
}
WITH_PICTURES = {"image", "images", "image_path", "jpg_0", "path1", "img"}

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | NUMBER | PICTURE,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "bytes", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def check(read: Read, path: Path, on_bad: str) -> None:
    """The judgements have their pictures, or the error is short."""
    try:
        judged = read(path, on_bad)
    except UserError as error:
        text = str(error).replace(str(path.parent), "")
        assert 0 < len(text) <= MESSAGE and text.count("\n") <= 1, text
    else:
        assert len(judged) and len(judged.images_NxHxWxC)
        assert all(isinstance(told, str) and told for told in judged.skipped)


@st.composite
def rows(draw, name: str) -> list[dict[str, Any]]:
    """Rows with this set's columns, in some of which anything stands, and some of which are missing."""
    columns = dict(GOOD[name])
    if not WITH_PICTURES & columns.keys():
        columns["image" if name in SETS and name != "trl" else "images"] = (
            st.lists(PICTURE, max_size=2) | PICTURE
        )
    found = []
    for _ in range(draw(st.integers(1, 3))):
        row = {column: draw(value) for column, value in columns.items()}
        for column in draw(st.lists(st.sampled_from(sorted(columns)), max_size=2)):
            if draw(st.booleans()):
                row[column] = draw(ANY_JSON)
            else:
                row.pop(column, None)
        found.append(row | draw(st.dictionaries(st.text(max_size=3), ANY_JSON, max_size=1)))
    return found


@pytest.fixture(scope="module")
def folder():
    """A folder with two pictures and whatever file is written into it."""
    with tempfile.TemporaryDirectory() as name:
        put(Path(name), "red", "blue")
        yield Path(name)


@pytest.mark.parametrize("name", READERS)
def test_rows_with_anything_in_their_columns(name: str, folder: Path):
    @FUZZ
    @given(rows(name), st.sampled_from(["error", "skip"]), st.sampled_from([".jsonl", ".json"]), st.data())
    def attempt(records, on_bad, suffix, data):
        path = folder / f"{name}{suffix if name in SETS else '.jsonl'}"
        lines = [json.dumps(record) for record in records]
        text = f"[{', '.join(lines)}]" if path.suffix == ".json" else "\n".join(lines) + "\n"
        path.write_text(text[: len(text) - data.draw(st.sampled_from([0, 0, 0, 1, 9]))], encoding="utf-8")
        check(READERS[name], path, on_bad)

    attempt()


@FUZZ
@given(st.binary(max_size=40), st.sampled_from([*FORMATS, ".png"]), st.sampled_from(sorted(READERS)))
def test_arbitrary_bytes(content, suffix, name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes(content)
        for read in (READERS[name], lambda path, on_bad: read_judgements(path, 4, on_bad=on_bad)):
            check(read, path, "skip")


@FUZZ
@given(rows("preferences"), st.integers(0, 400), st.integers(0, 255), st.booleans())
def test_a_damaged_parquet_file(records, position, byte, cut):
    """One byte in it is another one, or it ends too soon."""
    columns = ("prompt", "chosen", "rejected", "images")
    plain = [{name: json.dumps(row.get(name)) for name in columns} for row in records]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.parquet"
        pq.write_table(pa.Table.from_pylist(plain), path)
        content = bytearray(path.read_bytes())
        content[-position % len(content)] = byte
        path.write_bytes(content[: -position or None] if cut else content)
        for read in (READERS["preferences"], lambda path, on_bad: read_judgements(path, 4, on_bad=on_bad)):
            check(read, path, "error")


@FUZZ
@given(
    st.lists(st.lists(st.text(max_size=5), min_size=1, max_size=4), max_size=4),
    st.sampled_from([".csv", ".tsv", ".txt", ".jsonl"]),
)
def test_tables_of_any_cells(cells, suffix):
    """Every record comes with where it stands; a table's have all its columns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes("\n".join("\t".join(row) for row in cells).encode("utf-8", "surrogatepass"))

        def parse(row: dict[str, Any], where: str) -> dict[str, Any]:
            assert isinstance(row, dict) and str(path) in where
            return row

        try:
            records, skipped = read_rows(
                [path], parse, noun="row", on_bad="skip", check=lambda names, where: None, endings=(suffix,)
            )
        except UserError:
            return
        assert records and all(isinstance(told, str) for told in skipped)
