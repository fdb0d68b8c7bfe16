"""config.json of any model."""

from pathlib import Path

import pytest

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.config import read_config, write_config


def test_round_trip(tmp_path: Path):
    values = {"model_type": "llama", "rope_scaling": None, "nested": {"eps": 1e-5}}
    write_config(tmp_path / "new", values)
    assert read_config(tmp_path / "new") == values


@pytest.mark.parametrize("text", ["", "{", "null", "[1]", '"width"', "<html>"])
def test_what_is_no_object_is_refused(tmp_path: Path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json") as error:
        read_config(tmp_path)
    assert len(str(error.value).splitlines()) <= 2


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"config\.json is not there"):
        read_config(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"config\.json is not there"):
        read_config(tmp_path / "file")
