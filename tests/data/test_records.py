"""Files of records in every format, and which files of a folder are read."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmrlhf_jax.data.pictures import need_columns
from mmrlhf_jax.data.records import FORMATS, NoJudgement, find_files, read_rows
from mmrlhf_jax.errors import UserError

ROWS = [{"a": "1", "b": "x, y"}, {"a": "2", "b": 'say "so"\nand so'}]


def read(*files, parse=lambda row, where: (row, where), on_bad="error"):
    return read_rows(
        files,
        parse,
        noun="thing",
        on_bad=on_bad,
        check=lambda names, where: need_columns(names, ["a"], where),
        endings=tuple(FORMATS),
    )


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        case ".json":
            path.write_text(json.dumps(rows))
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".csv" | ".tsv":
            tab = "," if path.suffix == ".csv" else "\t"
            cells = [list(rows[0]), *(list(row.values()) for row in rows)]
            quoted = [tab.join('"' + cell.replace('"', '""') + '"' for cell in line) for line in cells]
            path.write_text("\ufeff" + "\r\n".join(quoted) + "\r\n\r\n", encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(
    ("suffix", "word"),
    [("parquet", "row"), ("json", "record"), ("jsonl", "line"), ("csv", "row"), ("tsv", "row")],
)
def test_formats(suffix, word, tmp_path):
    path = write(tmp_path / f"a.{suffix}", ROWS)
    records, skipped = read(path)
    assert records == [(ROWS[0], f"{path}, {word} 1"), (ROWS[1], f"{path}, {word} 2")]
    assert skipped == []


def test_text_between_tabs_has_numbers_for_names(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("x.jpg\tä\r\n\n\xff\n".encode("latin-1").replace(b"\xe4", "ä".encode()))
    records, skipped = read(path, on_bad="skip")
    assert records == [({"0": "x.jpg", "1": "ä"}, f"{path}, line 1")]
    assert "line 3: not UTF-8" in skipped[0]


def test_several_files_are_one_set(tmp_path):
    files = [write(tmp_path / f"{i}.jsonl", [{"a": i}]) for i in range(3)]
    assert [row["a"] for row, _ in read(*files)[0]] == [0, 1, 2]


def test_a_record_without_judgement_is_never_fatal(tmp_path):
    def parse(row, where):
        if row["a"] == "1":
            raise NoJudgement(f"{where}: nobody said anything")
        return row

    records, skipped = read(write(tmp_path / "a.csv", ROWS), parse=parse)
    assert records == ROWS[1:]
    assert skipped == [f"{tmp_path / 'a.csv'}, row 1: nobody said anything"]


@pytest.mark.parametrize(
    ("name", "data", "complaint"),
    [
        ("a.csv", b"a,b\n1,2\n3\n", r"row 2: 1 cells, but the table has 2 columns"),
        ("a.csv", b"b,c\n1,2\n", r"no column 'a' \(it has b, c\)"),
        ("a.csv", b"a,b\n\xff,2\n", "not a table in UTF-8"),
        ("a.csv", b"", "no column 'a'"),
        ("a.json", b'[{"a": 1}, 7]', "record 2: 7 is not a JSON object"),
        ("a.json", b'{"a": 1}', "a list of records is needed"),
        ("a.json", b'[{"a": 1}', "not JSON"),
        ("a.json", b"[]", "there is no thing in this file"),
        ("a.xlsx", b"", r"ends in \.parquet, .* or \.txt"),
    ],
)
def test_files_that_cannot_be_used(name, data, complaint, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=rf"{name}.*{complaint}"):
        read(tmp_path / name)


def test_a_bad_cell_count_can_be_skipped(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3\n4,5\n")
    records, skipped = read(tmp_path / "a.csv", on_bad="skip")
    assert [row["a"] for row, _ in records] == ["1", "4"]
    assert len(skipped) == 1


def names(folder, split="train"):
    return [file.relative_to(folder).as_posix() for file in find_files(folder, split)]


def test_a_file_is_itself(tmp_path):
    assert find_files(tmp_path / "none.csv") == [tmp_path / "none.csv"]


def test_all_shards_of_one_split(tmp_path):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", "test-0"):
        write(tmp_path / "data" / f"{name}.parquet", ROWS)
    assert names(tmp_path) == [f"data/train-0000{i}-of-00002.parquet" for i in range(2)]
    assert names(tmp_path, "test") == ["data/test-0.parquet"]
    with pytest.raises(UserError, match="no file of the split dev"):
        find_files(tmp_path, "dev")


def test_a_folder_of_one_split_is_that_one(tmp_path):
    write(tmp_path / "data" / "test-00000-of-00001.parquet", ROWS)
    assert names(tmp_path) == ["data/test-00000-of-00001.parquet"]


def test_one_layout_of_a_set_is_read_once(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"metadata-{split}.parquet", ROWS)
        write(tmp_path / "images" / split / f"{split}_1" / f"{split}_1.json", ROWS)
    write(tmp_path / ".cache" / "x.parquet", ROWS)
    assert names(tmp_path) == ["metadata-train.parquet"]
    (tmp_path / "metadata-train.parquet").unlink()
    (tmp_path / "metadata-test.parquet").unlink()
    assert names(tmp_path) == ["images/train/train_1/train_1.json"]


def test_an_empty_folder(tmp_path):
    with pytest.raises(UserError, match="no file of the split train in this folder"):
        find_files(tmp_path)
