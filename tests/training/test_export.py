"""Networks that leave a run: whole, in the layout that is said, with a card."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.architecture import CLIPConfig
from mmrlhf_jax.data.tokens import BEGIN_ID, END_ID
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.folder import load_architecture
from mmrlhf_jax.policy.captioner import Captioner
from mmrlhf_jax.pretrained import load_decoder
from mmrlhf_jax.reward.define import load_reward_model
from mmrlhf_jax.training.config import StageConfig
from mmrlhf_jax.training.config.export import ExportConfig
from mmrlhf_jax.training.contrastive import load_language_model
from mmrlhf_jax.training.export import run

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def exported(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory):
    """The folder of all parts, and why they are not in transformers' layout."""
    out = tmp_path_factory.mktemp("exported") / "out"
    return out, run(ExportConfig("smoke", smoke_run, out=out))


def same(one, other) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_all_parts_come_back_as_they_were(exported, smoke_run):
    out, reasons = exported
    model = smoke_run / "seed_0"
    same(Captioner.load(out / "policy").params, Captioner.load(model / "ppo/model").params)
    same(load_reward_model(out / "reward")[1], load_reward_model(model / "reward/model")[1])
    assert load_architecture(out / "clip", CLIPConfig) == load_architecture(
        model / "pretrain/model/clip", CLIPConfig
    )
    assert not reasons["decoder"]
    assert "transformers' CLIP" in reasons["clip"] and "LLaVA" in reasons["policy"]
    assert "no reward model" in reasons["reward"]


def test_the_decoder_is_one_of_transformers(exported, smoke_run):
    out, _ = exported
    config = json.loads((out / "decoder/config.json").read_text())
    assert config["model_type"] == "llama"
    assert (config["bos_token_id"], config["eos_token_id"]) == (BEGIN_ID, END_ID)
    trained = load_language_model(StageConfig(run=smoke_run))
    ids = jnp.array([[BEGIN_ID, 40, 41, 42]])
    decoder, own = load_decoder(out / "decoder"), trained.definition.bind(trained.params)
    here, there = (d.logits(d(d.embed(ids), jnp.ones(ids.shape, bool))) for d in (decoder, own))
    np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-5)


def test_cards_have_the_numbers_and_say_what_is_simulated(exported, smoke_run):
    out, reasons = exported
    summary = json.loads((smoke_run / "summary.json").read_text())
    for part, reason in reasons.items():
        card = (out / part / "README.md").read_text()
        assert f"| gold.gain | {summary['gold']['gain']:.4g} |" in card
        assert "**simulated**" in card and "jax " in card
        assert (reason in card) if reason else "library_name: transformers" in card
    assert "combinations.image_to_text_recall_at_1" in (out / "clip" / "README.md").read_text()


def test_what_is_there_is_not_written_over_and_a_stage_that_is_not_done_is_told(
    exported, smoke_run, tmp_path
):
    out, _ = exported
    with pytest.raises(UserError, match="is there already: choose another --out"):
        run(ExportConfig("smoke", smoke_run, part=("policy",), out=out))
    with pytest.raises(UserError, match=r"dpo holds no result\.json"):
        run(ExportConfig("smoke", smoke_run, stage="dpo", out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parity
def test_transformers_says_the_same(exported):
    import torch
    import transformers

    out, _ = exported
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        out / "decoder", output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "decoder")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (BEGIN_ID, END_ID)
    ids = np.array([[BEGIN_ID, *tokenizer("red heart", add_special_tokens=False)["input_ids"], END_ID]])
    with torch.no_grad():
        theirs = model(torch.tensor(ids)).logits.numpy()
    decoder = load_decoder(out / "decoder")
    ours = decoder.logits(decoder(decoder.embed(jnp.asarray(ids, jnp.int32)), jnp.ones(ids.shape, bool)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
