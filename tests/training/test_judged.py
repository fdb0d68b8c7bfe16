"""Judgements of the user's own, as the command line names them."""

import numpy as np
import pytest

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.training.config import RewardStageConfig
from mmrlhf_jax.training.judged import read_own
from mmrlhf_jax.training.reward import run
from mmrlhf_jax.training.setting import load_preferences
from tests.picture_files import in_json, put, write_lines

OWN = {"prompt": "", "chosen": "a red one", "rejected": "blue"}
RLAIF = {"question": "What?", "chosen": "a red one", "rejected": "blue"}


def own_file(folder):
    rows = [OWN | {"images": [in_json(name)]} for name in ("red", "blue", "green", "red")]
    return write_lines(folder / "own.jsonl", *rows, OWN | {"images": []})


def test_own_columns_with_a_bad_record(tmp_path):
    path = own_file(tmp_path)
    with pytest.raises(UserError, match="line 5"):
        read_own(path, RewardStageConfig(preferences=path), 8)
    parts = load_preferences(RewardStageConfig(preferences=path, on_bad="skip"), 8)
    assert sorted(parts) == ["held_out", "train"]
    assert len(parts["train"]) + len(parts["held_out"]) == 4
    assert not set(parts["train"].image_index_P) & set(parts["held_out"].image_index_P)


def test_a_public_set_with_pictures_elsewhere(tmp_path):
    put(tmp_path / "pictures", "red", "blue")
    path = write_lines(tmp_path / "a.jsonl", RLAIF | {"image": "red.webp"}, RLAIF | {"image": "blue.webp"})
    config = RewardStageConfig(preferences=path, set="rlaif-v", image_root=tmp_path / "pictures")
    judged = read_own(path, config, 8)
    assert judged.prompts == ["What?"] * 2
    assert np.array_equal(judged.image_index_P, [0, 1])


def test_a_survey_is_printed_and_nothing_is_trained(tmp_path, capsys):
    path = own_file(tmp_path)
    config = RewardStageConfig(preferences=path, on_bad="skip", survey=True, run=tmp_path / "run")
    assert run(config) == {}
    printed = capsys.readouterr().out
    assert f"{path}\n  judgements: 4\n" in printed
    assert "  longer wins: 1\n" in printed
    assert "  left out: 1\n" in printed
    assert not (tmp_path / "run").exists()


def test_every_kind_of_set_can_be_surveyed(tmp_path, capsys):
    put(tmp_path, "red")
    row = {"refs": ["a"], "cand": "b", "img": "red.webp", "human_score": 0.5}
    path = write_lines(tmp_path / "a.jsonl", row)
    run(RewardStageConfig(preferences=path, set="polaris", survey=True))
    assert "score\n" in capsys.readouterr().out
    with pytest.raises(UserError, match="at least two"):
        load_preferences(RewardStageConfig(preferences=path, set="polaris"), 8)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"set": "trl"}, "set is given without preferences"),
        ({"preferences": "a.jsonl", "image_root": "x"}, "image_root and allow_urls are for public sets"),
        ({"preferences": "a.jsonl", "allow_urls": True}, "for public sets"),
    ],
)
def test_options_that_belong_together(options, complaint):
    with pytest.raises(UserError, match=complaint):
        RewardStageConfig(**options)
