"""The chatbot's command, at its smallest: every stage and both arms."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from mmrlhf_jax.data.preferences import read_preferences
from mmrlhf_jax.data.tone import ToneCase, load_tone
from mmrlhf_jax.data.tone_faces import load_faces
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.feedback.reply_rubric import ReplyRubric
from mmrlhf_jax.policy.captioner import Captioner
from mmrlhf_jax.reward.define import load_reward_model
from mmrlhf_jax.training import reward
from mmrlhf_jax.training.chatbot.config import PRESETS, ChatCollectConfig
from mmrlhf_jax.training.chatbot.judge import Answers, gain, numbers
from mmrlhf_jax.training.chatbot.run import run

SMOKE = PRESETS["smoke"]


@pytest.fixture(scope="module")
def chatbot_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chatbot")
    run(dataclasses.replace(SMOKE, run=folder))
    return folder


@pytest.fixture(scope="module")
def summary(chatbot_run):
    return json.loads((chatbot_run / "summary.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_both_arms_are_compared_on_both_held_out_parts(summary):
    assert set(summary["parts"]) == {"combinations", "faces"}
    for found in summary["parts"].values():
        for decoding in ("sampled", "greedy"):
            assert set(found[decoding]["policies"]) == {
                "SFT",
                "SFT without picture",
                "RLHF with picture",
                "RLHF without picture",
            }
            gained = found[decoding]["gains"]["RLHF with picture over RLHF without picture"]
            golds = [
                found[decoding]["policies"][f"RLHF {arm} picture"]["gold"] for arm in ("with", "without")
            ]
            assert gained["all"]["mean"] == pytest.approx(golds[0] - golds[1], abs=1e-9)
        assert set(found["face_shuffled"]) == {"SFT", "RLHF with picture"}


@pytest.mark.slow
def test_the_arm_without_the_picture_owes_it_nothing(summary):
    attribution = summary["reward_models"]["without_picture"]["attribution"]
    assert attribution["accuracy"] == attribution["picture_shuffled"] == attribution["picture_absent"]
    assert attribution["picture_shapley"] == 0 and "adds nothing" in attribution["warning"]


@pytest.mark.slow
def test_judgements_are_of_answers_behind_their_prompts_and_point_at_the_better_one(chatbot_run):
    judged = read_preferences(chatbot_run / "seed_0/collect/held_out_rubric.parquet", image_size=32)
    images = judged.images_NxHxWxC[judged.image_index_P]
    case_of = {
        (case.said, cases.faces.images_FxHxWxC[case.face].tobytes()): case
        for cases in (load_tone(part, cases=32) for part in ("combinations", "faces"))
        for case in cases.cases
    }
    about = [case_of[said, image.tobytes()] for said, image in zip(judged.prompts, images, strict=True)]
    rubric = ReplyRubric.of_templates()
    gap = rubric.utilities(judged.chosen, about) - rubric.utilities(judged.rejected, about)
    assert len(gap) > 10 and (gap > 0).all()


@pytest.mark.slow
def test_policies_are_saved_with_or_without_eyes_and_answer(chatbot_run):
    cases = load_tone("faces", cases=4)
    for stage, picture in (("ppo", True), ("ppo_without_picture", False)):
        policy = Captioner.load(chatbot_run / "seed_0" / stage / "model")
        assert policy.architecture.picture == picture
        assert len(policy.caption(cases.images_NxHxWxC, cases.said)) == 4


@pytest.mark.slow
def test_the_report_shows_cases_and_attribution(chatbot_run):
    page = (chatbot_run / "report.html").read_text(encoding="utf-8")
    for text in (
        "What is gained",
        "Attribution: policies",
        "Cases and answers",
        "data:image/png",
        "simulated",
    ):
        assert text in page


@pytest.mark.slow
def test_the_reward_model_may_have_towers_of_its_own_under_any_fusion(chatbot_run, tmp_path):
    (tmp_path / "seed_0").mkdir()
    for stage in ("sft", "collect"):
        (tmp_path / "seed_0" / stage).symlink_to(chatbot_run / "seed_0" / stage)
    config = dataclasses.replace(SMOKE, run=tmp_path).stage("reward", backbone="towers", fusion="gated")
    result = reward.run(config)
    assert 0 <= result["rubric"]["accuracy"]["mean"] <= 1
    _, params = load_reward_model(tmp_path / "seed_0/reward/model")
    assert "policy" not in params and {"clip", "fusion"} <= params.keys()


@pytest.mark.slow
def test_started_again_it_does_nothing_anew(chatbot_run, capsys):
    before = {path: path.stat().st_mtime_ns for path in chatbot_run.rglob("*") if path.is_file()}
    run(dataclasses.replace(SMOKE, run=chatbot_run))
    assert capsys.readouterr().out.count("done before, skipped") == 7
    unchanged = [path for path in before if path.name in ("metrics.jsonl", "result.json", "summary.json")]
    assert all(path.stat().st_mtime_ns == before[path] for path in unchanged)


def test_gains_are_paired_and_by_kind():
    kinds = ("plain", "neutral", "plain", "neutral", "sarcastic")
    cases = [ToneCase(face, "x", "sad", "pet", kind, None) for face, kind in enumerate(kinds)]
    tones = dataclasses.replace(load_tone("train", cases=1), cases=tuple(cases))
    one, other = (
        Answers([""] * 10, np.array(gold), np.ones((10, 5)))
        for gold in ([1.0, 0.5, 1.0, 0.5, 0.2] * 2, [0.0, 0.5, 0.0, 0.5, 0.4] * 2)
    )
    found = gain(one, other, tones)
    assert found["plain"]["mean"] == 1.0 and found["neutral"]["mean"] == 0.0
    assert found["sarcastic"]["mean"] == pytest.approx(-0.2) and found["all"]["mean"] == pytest.approx(0.36)
    assert found["win_rate"] == pytest.approx((2 + 1) / 5)
    assert numbers(one, tones)["by_kind"]["sarcastic"] == pytest.approx(0.2)


def test_configs_say_what_is_wrong():
    with pytest.raises(UserError, match="arms has 'blind'"):
        dataclasses.replace(SMOKE, arms=("blind",))
    with pytest.raises(UserError, match="arms is empty"):
        dataclasses.replace(SMOKE, arms=())
    with pytest.raises(UserError, match="kinds"):
        ChatCollectConfig(kinds=("labels",))
    with pytest.raises(UserError, match="32 pixels"):
        vision = dataclasses.replace(SMOKE.sft.policy.vision, image_size=64)
        dataclasses.replace(SMOKE.sft, policy=dataclasses.replace(SMOKE.sft.policy, vision=vision))
    assert load_faces().images_FxHxWxC.shape[1] == SMOKE.sft.policy.vision.image_size
