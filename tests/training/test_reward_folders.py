"""The reward stage on backbones that lie in folders as transformers saves them."""

import dataclasses
import json
import shutil
from pathlib import Path
from string import ascii_lowercase

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from mmrlhf_jax.architecture import RewardConfig
from mmrlhf_jax.hub.folder import load_architecture
from mmrlhf_jax.modules import equal_params
from mmrlhf_jax.reward.backbone import load_backbone
from mmrlhf_jax.reward.define import load_reward_model
from mmrlhf_jax.training import reward
from mmrlhf_jax.training.presets import PRESETS

pytestmark = pytest.mark.slow

BACKBONES = {"clip_gelu": "clip", "siglip": "siglip"}  # by folder; of another kind are policies


def with_tokenizer(golden: Path, folder: Path) -> Path:
    """The tiny SigLIP of the golden files with a vocabulary of letters, which it lies there without."""
    shutil.copytree(golden, folder)
    vocabulary = {"<unk>": 0, "<pad>": 1} | {letter: 2 + i for i, letter in enumerate(ascii_lowercase)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "transfer"),
    [("clip_gelu", "lora"), ("siglip", "frozen"), ("siglip", "full"), ("llava_llama_clip", "frozen")],
)
def test_it_trains_on_a_folder_and_reads_it_back(
    smoke_run: Path, root: Path, tmp_path: Path, name: str, transfer: str
):
    golden = root / "tests" / "golden" / name
    folder = with_tokenizer(golden, tmp_path / name) if name == "siglip" else golden
    shutil.copytree(smoke_run / "seed_0" / "collect", tmp_path / "run" / "seed_0" / "collect")
    config = dataclasses.replace(
        PRESETS["smoke"].reward, run=tmp_path / "run", backbone=str(folder), transfer=transfer
    )
    measured = reward.run(config)["held_out"]
    assert measured["pairs"] > 0 and 0 <= measured["accuracy"]["mean"] <= 1
    assert np.isfinite(measured["calibration_error"])
    model = config.folder("reward") / "model"
    assert load_architecture(model, RewardConfig).backbone == BACKBONES.get(name, "policy")
    _, params = load_reward_model(model)
    assert "head" in params
    kept = load_backbone(folder).params
    own = params[BACKBONES.get(name, "policy")]
    moved = not equal_params(jax.tree.map(np.asarray, own), jax.tree.map(np.asarray, kept))
    assert moved == (transfer != "frozen"), "adapters are merged, and what is frozen stays"
