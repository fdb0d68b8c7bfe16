"""The benchmark's parts: seeds side by side, what is measured, what is concluded, and nothing done twice."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.data.fusion_tasks import FusionExamples
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.evaluate.attribution import attribute
from mmrlhf_jax.training.fusion_benchmark import run as benchmark
from mmrlhf_jax.training.fusion_benchmark.conclusions import compare_to_best, conclude
from mmrlhf_jax.training.fusion_benchmark.config import PRESETS, FusionBenchmarkConfig, TrialConfig
from mmrlhf_jax.training.fusion_benchmark.data import known_answer, load_task
from mmrlhf_jax.training.fusion_benchmark.measure import measure
from mmrlhf_jax.training.fusion_benchmark.trial import define_judge, train
from tests.parameters import draw

TINY = TrialConfig(
    seeds=2, steps=4, batch=8, width=8, train_rows=32, test_rows=48, max_pictures=80, noise=(0.0, 2.0)
)


@pytest.fixture(scope="module")
def judge():
    return define_judge("weighted_sum", (16, 16), TINY.width)


@pytest.fixture(scope="module")
def conflict():
    return load_task("conflict", FusionBenchmarkConfig(trial=TINY))


@pytest.mark.medium
def test_seeds_do_not_know_of_each_other(judge, conflict):
    """Another neighbour, with another key and other data, changes nothing; one's own key does."""
    key_3 = jax.random.split(jax.random.key(1), 3)

    def trained(key_K, rows):
        examples = jax.tree.map(lambda leaf: leaf[np.array(rows)], conflict.train)
        return jax.tree.map(np.asarray, train(judge, TINY, key_K, examples))

    params, losses_KxT = trained(key_3[:2], [0, 1])
    beside, beside_KxT = trained(key_3[np.array([2, 1])], [1, 1])
    np.testing.assert_array_equal(losses_KxT[1], beside_KxT[1])
    jax.tree.map(lambda one, other: np.testing.assert_array_equal(one[1], other[1]), params, beside)
    assert np.abs(losses_KxT[0] - beside_KxT[0]).min() > 0 and np.abs(beside_KxT[0] - beside_KxT[1]).min() > 0
    assert losses_KxT.shape == (2, TINY.steps)


def test_no_method_is_told_who_is_honest(conflict):
    assert conflict.train.honest_N is None and conflict.test.honest_N is not None


def test_comparisons_turned_round_turn_the_score(judge):
    generator = np.random.default_rng(0)
    image, first, second = (jnp.asarray(generator.normal(size=(6, 16)), jnp.float32) for _ in range(3))
    label, present = jnp.ones(6), jnp.ones((6, 2), bool)
    bound = judge.bind(draw(judge.abstract()))
    there = bound.ask(FusionExamples(image, first, label, present, second)).logit_N
    back = bound.ask(FusionExamples(image, second, label, present, first)).logit_N
    np.testing.assert_allclose(there, -back, atol=1e-6)
    assert np.abs(there).max() > 1e-3
    no_text = present.at[:, 1].set(False)
    np.testing.assert_array_equal(
        bound.ask(FusionExamples(image, first, label, no_text, second)).logit_N, 0.0
    )


@pytest.mark.medium
def test_measures_are_those_of_each_seed_alone(judge, conflict):
    each = [draw(judge.abstract(), seed) for seed in range(TINY.seeds)]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    found = measure(judge, params, conflict, TINY.noise)
    honest_KxN = np.asarray(conflict.test.honest_N)
    shares = []
    for seed in range(TINY.seeds):
        bound = judge.bind(jax.tree.map(lambda leaf, seed=seed: leaf[seed], params))
        examples = jax.tree.map(lambda leaf, seed=seed: leaf[seed], conflict.test)

        def score(image_rows, text_rows, present, bound=bound, examples=examples):
            return bound(examples.image_NxD[image_rows], examples.text_NxD[text_rows], present).logit_N

        asked = bound(examples.image_NxD, examples.text_NxD, examples.present_Nx2)
        right_N = (np.asarray(asked.logit_N) > 0) == (np.asarray(examples.label_N) > 0)
        assert found["accuracy"][seed] == np.mean(right_N)
        weight_N = np.asarray(asked.weights_Nx2)[:, 0]
        expected = np.corrcoef(weight_N, honest_KxN[seed])[0, 1]
        assert found["weights"]["honesty_correlation"][seed] == pytest.approx(expected, abs=1e-4)
        one = attribute(score, np.asarray(examples.label_N))
        shares.append(one.picture_shapley)
        assert found["attribution"]["picture_share_by_seed"][seed] == pytest.approx(
            one.picture_share, abs=1e-6, nan_ok=True
        )
    assert found["attribution"]["picture_shapley"] == pytest.approx(np.mean(shares), abs=1e-6)
    for name in ("image", "text"):
        clean, noisy = found["robustness"][name]
        assert clean == pytest.approx(np.mean(found["accuracy"])) and 0 <= noisy <= 1


def trial(accuracy, **more):
    seeds = accuracy + 0.001 * np.arange(10)
    return {"accuracy": seeds.tolist(), "attribution": {"picture_share": 0.5}, "weights": None, **more}


def test_statements_hold_only_when_their_numbers_say_so():
    def holds(trials, answers=None):
        return [one["holds"] for one in conclude(trials, answers or {})]

    assert holds({"synergy": {"late": trial(0.5), "gated": trial(0.97)}}) == [True, True]
    assert holds({"synergy": {"late": trial(0.7), "gated": trial(0.9)}}) == [False, False]
    moving = trial(0.99, weights={"honesty_correlation": [0.9] * 10})
    assert holds({"conflict": {"weighted_sum": moving, "weighted_sum_fixed": trial(0.8)}}) == [True, True]
    assert holds({"conflict": {"weighted_sum": trial(0.7) | {"weights": moving["weights"]},
                               "weighted_sum_fixed": trial(0.8)}}) == [False, True]  # fmt: skip
    for unmasked, expected in ((0.80, True), (0.90, False)):  # 0.03 is lost with masks, 0.15 or 0.05 without
        lost = {"accuracy": [unmasked] * 10, "accuracy_complete": [0.95] * 10}
        missing = {"concat": trial(0.92, accuracy_complete=[0.9545] * 10, unmasked=lost)}
        assert holds({"missing": missing}) == [expected]
    answer = {"synergy": {"bayes": 1.0, "trained": 1.0, "picture_share": 0.65}}
    assert holds({"synergy": {"concat": trial(0.98)}}, answer) == [False]
    assert holds({"synergy": {"concat": trial(0.5)}}, answer) == []  # what was not learnt shares nothing


def test_methods_are_compared_on_the_same_seeds():
    noise = np.linspace(-0.2, 0.2, 10)  # of the data: larger than the difference, the same for both
    row = {
        "a": {"accuracy": 0.70 + noise},
        "b": {"accuracy": 0.71 + noise},
        "c": {"accuracy": 0.709 + noise[::-1]},
    }
    found = compare_to_best(row)
    p_values = found["p_values"]
    assert found["best"] == "b" and p_values["a"] == pytest.approx(2 * 2 / 1024) and p_values["c"] > 0.5


def test_names_stand_as_often_in_the_right_as_in_the_wrong():
    config = FusionBenchmarkConfig(trial=dataclasses.replace(TINY, max_pictures=200, test_rows=600))
    test = load_task("emoji", config).test
    assert test.other_NxD is not None and test.label_N.shape == (2, 600)
    first_Nx1 = np.asarray(test.label_N[0])[:, None] == 1
    first_NxD, second_NxD = np.asarray(test.text_NxD[0]), np.asarray(test.other_NxD[0])
    right_D = np.where(first_Nx1, first_NxD, second_NxD).sum(axis=0)
    wrong_D = np.where(first_Nx1, second_NxD, first_NxD).sum(axis=0)
    np.testing.assert_allclose(right_D, wrong_D, atol=0.02)
    answer = known_answer("emoji")
    assert answer is not None and answer.picture_share == 0.5 and known_answer("preference") is None


def test_comparisons_come_in_both_orders():
    config = FusionBenchmarkConfig(trial=dataclasses.replace(TINY, max_pictures=100, train_rows=200))
    data = load_task("preference", config)
    assert 0.4 < float(jnp.mean(data.train.label_N)) < 0.6
    assert data.train.other_NxD is not None and data.train.label_N.shape == (2, 200)
    assert not np.array_equal(np.asarray(data.train.other_NxD), np.asarray(data.train.text_NxD))


@pytest.mark.medium
def test_what_is_done_is_not_done_again(tmp_path, monkeypatch):
    config = FusionBenchmarkConfig(
        run=tmp_path / "run", methods=("late",), tasks=("synergy", "missing"), trial=TINY
    )
    first = benchmark.run(config)
    done = []
    whole = benchmark.try_method

    def counted(method, data, config, compiled):
        done.append(method)
        return whole(method, data, config, compiled)

    monkeypatch.setattr(benchmark, "try_method", counted)
    (config.run / "trials/missing/late.json").unlink()
    again = benchmark.run(config)
    assert done == ["late"]
    for task in config.tasks:
        assert again["trials"][task]["late"]["accuracy"] == first["trials"][task]["late"]["accuracy"]
    with pytest.raises(UserError, match="made with another config"):
        benchmark.run(dataclasses.replace(config, trial=dataclasses.replace(TINY, steps=5)))

    results = json.loads((config.run / "results.json").read_text())
    assert results["trials"]["missing"]["late"]["unmasked"]["accuracy"] and results["versions"]["jax"]
    assert results["trials"]["synergy"]["late"]["parameters"] > 0
    table = (config.run / "results.md").read_text()
    assert "## What a missing modality costs" in table and "| late |" in table
    page = (config.run / "report.html").read_text()
    assert page.count("<figure") == 2 + 4 and "http://" not in page and "best possible" in page


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    benchmark.run(dataclasses.replace(PRESETS["quick"], run=tmp_path / "run", dry_run=True))
    assert not (tmp_path / "run").exists()
    assert "120 of 120 trials to do, each of 10 seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("concat", "magic")}, "methods has 'magic': choose from concat"),
        ({"tasks": ()}, "tasks is empty: choose from additive"),
    ],
)
def test_configs_that_cannot_be(changes, message):
    with pytest.raises(UserError, match=message):
        FusionBenchmarkConfig(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"noise": (1.0, -1.0)}, "noise is"), ({"seeds": 0}, "seeds is 0"), ({"modality_dropout": 1.0}, "drop")],
)
def test_trials_that_cannot_be(changes, message):
    with pytest.raises(UserError, match=message):
        TrialConfig(**changes)
