"""What each kind of judgement asks of the rewards: the right rows, losses by hand, held-out measures."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.data.clicks import ClickLog
from mmrlhf_jax.data.preferences import PreferenceSet
from mmrlhf_jax.data.ratings import RatingSet
from mmrlhf_jax.data.unpaired import LabelledSet
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.training.config.loss import ClickLossConfig, LossConfig
from mmrlhf_jax.training.objectives import Clicks, Comparisons, Labels, Ratings, objective_of

PICTURES = np.zeros((4, 2, 2, 3), np.uint8)


class Letters:
    """Stands for the tokenizer: each letter a token."""

    def encode_batch(self, texts, max_length):
        rows = [[ord(letter) for letter in text][:max_length] for text in texts]
        return np.array([row + [0] * (max_length - len(row)) for row in rows], np.int32)


def pairs(**changes) -> PreferenceSet:
    judged = PreferenceSet(
        PICTURES, np.array([0, 1, 2, 3], np.int32), ["", "q", "", ""], list("abcd"), list("efgh")
    )
    return dataclasses.replace(judged, **changes)


DEFAULT = LossConfig()


def on_device(judged, config=DEFAULT, learn=True, length=3):
    objective = objective_of(judged, config)
    return objective, objective.to_device(judged, Letters(), length, learn=learn)


def read(ids) -> list[str]:
    return ["".join(chr(i) for i in row if i) for row in np.asarray(ids)]


def test_comparisons_have_the_chosen_answer_first_and_the_prompt_before_both():
    _, judgements = on_device(pairs())
    assert read(judgements.ids_RxSxT[:, 0]) == ["a", "q b", "c", "d"]
    assert read(judgements.ids_RxSxT[:, 1]) == ["e", "q f", "g", "h"]
    assert judgements.image_index_RxI.tolist() == [[0], [1], [2], [3]] and not judgements.said


def test_each_side_may_have_its_own_picture():
    _, judgements = on_device(pairs(rejected_image_index_P=np.array([3, 2, 1, 0], np.int32)))
    assert judgements.image_index_RxI.tolist() == [[0, 3], [1, 2], [2, 1], [3, 0]]


def test_ties_are_left_out_where_nothing_is_learned_from_them():
    tied = pairs(tie_P=np.array([False, True, False, False]))
    assert read(on_device(tied)[1].ids_RxSxT[:, 0]) == ["a", "c", "d"]
    assert len(on_device(tied, learn=False)[1].ids_RxSxT) == 4
    assert len(on_device(tied, LossConfig(ties="davidson"))[1].ids_RxSxT) == 4
    with pytest.raises(UserError, match="all 1 pairs of a part are ties"):
        on_device(tied.take([1]))


@pytest.mark.parametrize("ties", ["rao_kupper", "davidson"])
def test_a_learned_tie_parameter_starts_at_the_share_of_ties(ties):
    objective, _ = on_device(pairs(tie_P=np.array([False, True, False, False])), LossConfig(ties=ties))
    params = objective.init()
    chance = np.exp(objective.outcomes(params, jnp.zeros((1, 2))).tie_B)
    np.testing.assert_allclose(chance, 0.25, rtol=1e-5)
    fixed = dataclasses.replace(objective, tie_parameter=0.7)
    assert fixed.init() == {}
    measured = fixed.measure({}, np.zeros((4, 2)), {}, np.arange(4))
    assert measured["tie_parameter"] == pytest.approx(0.7)


def test_margins_come_from_the_file_and_not_for_ties():
    judged = pairs(extras={"margin": [1.0, 2.0, None, 0.5]}, tie_P=np.array([False, True, False, False]))
    objective, judgements = on_device(
        judged, LossConfig(0.0, margin=2.0, ties="rao_kupper", tie_parameter=1.0)
    )
    reward = jnp.asarray([[3.0, 0.0]] * 4)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    tie = np.expm1(2.0) * sigmoid(3.0 - 1.0) * sigmoid(-3.0 - 1.0)
    want = [sigmoid(3 - 2.0 - 1), tie, sigmoid(3 - 0.0 - 1), sigmoid(3 - 1.0 - 1)]
    np.testing.assert_allclose(objective.losses({}, reward, judgements.said), -np.log(want), rtol=1e-5)
    with pytest.raises(UserError, match="no column 'margin'"):
        objective_of(pairs(), LossConfig(margin=1.0))


def test_comparisons_are_measured_where_raters_decided():
    said = {"tie": np.array([False, False, True, True])}
    reward = np.array([[2.0, 0.0], [0.0, 1.0], [0.1, 0.0], [0.0, 0.2]])
    objective = Comparisons(ties="davidson", tie_parameter=0.0)
    measured = objective.measure({}, reward, said, np.arange(4))
    assert measured["accuracy"].mean == 0.5 == objective.score(reward, said)
    assert (measured["ties"], measured["accuracy_with_ties"]) == (2, 0.75)
    assert measured["tie_margin"] == pytest.approx(0.2)
    chance = [np.exp(d / 2) / (np.exp(d / 2) + np.exp(-d / 2) + 1) for d in (2.0, -1.0)]
    chance += [1 / (np.exp(d / 2) + np.exp(-d / 2) + 1) for d in (0.1, -0.2)]
    assert measured["log_likelihood"] == pytest.approx(np.mean(np.log(chance)), rel=1e-5)
    assert objective.metrics({}, jnp.asarray(reward), {})["rewards/margins"].tolist() == pytest.approx(
        [2.0, -1.0, 0.1, -0.2]
    )


def ratings() -> RatingSet:
    columns = {
        "truth": np.array([1, 2, 3, np.nan, np.nan, 3], np.float32),
        "style": np.array([10, np.nan, 20, 20, np.nan, 10], np.float32),
    }
    index = np.array([0, 1, 2, 3, 0, 1], np.int32)
    return RatingSet(PICTURES, index, [""] * 6, list("abcdef"), columns, {"truth": (1, 5), "style": (0, 20)})


def test_ratings_become_levels_and_the_unrated_are_left_out(capsys):
    _, judgements = on_device(ratings())
    assert judgements.said["level"].tolist() == [[0, 0], [1, -1], [2, 1], [-1, 1], [2, 0]]
    assert read(judgements.ids_RxSxT[:, 0]) == list("abcdf")
    one, judgements = on_device(ratings(), LossConfig(aspects=("style",)))
    assert one.aspects == ("style",) and judgements.said["level"][:, 0].tolist() == [0, 1, 1, 0]
    with pytest.raises(UserError, match="no aspect tone"):
        objective_of(ratings(), LossConfig(aspects=("truth", "tone")))
    flat = dataclasses.replace(ratings(), ratings=ratings().ratings | {"style": np.ones(6, np.float32)})
    with pytest.raises(UserError, match="no answer of a part is rated on style"):
        one.to_device(ratings().take([1, 4]), Letters(), 3, learn=False)
    with pytest.raises(UserError, match=r"style.*must differ"):
        objective_of(flat, LossConfig(aspects=("truth", "style")))
    assert objective_of(flat, LossConfig()).aspects == ("truth",)
    assert "ratings of style are all alike" in capsys.readouterr().out


def test_ratings_start_at_the_shares_of_the_levels_wherever_the_rewards_are():
    objective, judgements = on_device(ratings())
    for mean in (0.0, -7.0):
        loss = objective.losses(objective.init(mean), jnp.full((5, 1), mean), judgements.said)
        # shares of 1, 1 and 2 in 4 (truth), of 2 and 2 in 4 (style), with half a count added to each
        truth, style = -np.log(np.array([1.5, 1.5, 2.5]) / 5.5), np.log(2)
        want = [
            (truth[0] + style) / 2,
            truth[1],
            (truth[2] + style) / 2,
            style,
            (truth[2] + style) / 2,
        ]
        np.testing.assert_allclose(loss, want, rtol=1e-4)


def test_ratings_are_measured_by_rank():
    objective, judgements = on_device(ratings())
    params = objective.init()
    # grades, the mean share of the scales: 0, 1/2, 1, 1, 1/2
    reward = np.array([[-1.0], [0.0], [2.0], [3.0], [0.5]], np.float32)
    measured = objective.measure(params, reward, judgements.said, np.arange(5))
    assert measured["spearman"] == objective.score(reward, judgements.said) > 0.9
    assert objective.score(-reward, judgements.said) == pytest.approx(-measured["spearman"])
    assert measured["spearman_by_aspect"]["truth"] == pytest.approx(0.9486833)  # ranks 1 2 4 3 of 1 2 3.5 3.5
    np.testing.assert_allclose(measured["cutpoints"]["style"], [0.0], atol=1e-6)
    error = objective.metrics(params, jnp.full((5, 1), 50.0), judgements.said)["rewards/level_errors"]
    np.testing.assert_allclose(error, [(2 + 1) / 2, 1, 0, 0, (0 + 1) / 2], atol=1e-5)


def test_thumbs_start_at_their_share_and_are_measured():
    judged = LabelledSet(
        PICTURES, np.arange(4, dtype=np.int32), [""] * 4, list("abcd"), np.array([True, True, True, False])
    )
    objective, judgements = on_device(judged, LossConfig(0.0))
    params = objective.init(-3.0)
    loss = objective.losses(params, jnp.full((4, 1), -3.0), judgements.said)
    np.testing.assert_allclose(loss, -np.log([0.75, 0.75, 0.75, 0.25]), rtol=1e-5)
    reward = np.array([[0.0], [1.0], [-4.0], [-5.0]], np.float32)
    measured = objective.measure({"threshold": jnp.asarray(-1.0)}, reward, judgements.said, np.arange(4))
    assert (measured["auc"], measured["threshold"]) == (1.0, -1.0)
    assert measured["label_accuracy"].mean == 0.75
    batch = dataclasses.replace(objective, threshold="batch")
    assert batch.init() == {}
    above = batch.metrics({}, jnp.asarray(reward), judgements.said)["rewards/accuracies"]
    assert above.tolist() == [1.0, 1.0, 0.0, 1.0]  # the mean is -2
    with pytest.raises(UserError, match="all labels are the same"):
        objective_of(dataclasses.replace(judged, label_R=np.ones(4, bool)), LossConfig())


def clicks(**changes) -> ClickLog:
    log = ClickLog(
        PICTURES,
        np.array([0, 0, 1, 2, 3], np.int32),
        [""] * 5,
        [["a", "b", "c"], ["b", "a"], ["d", "e"], ["f"], ["a", "b", "c"]],
        np.array([[0, 1, 2], [0, 1, -1], [1, 0, -1], [0, -1, -1], [2, 1, 0]], np.int32),
        np.array([[1, 0, 1], [0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0]], bool),
        extras={"random_order": [True, True, False, False, True]},
    )
    return dataclasses.replace(log, **changes)


def click_config(**changes) -> LossConfig:
    return LossConfig(clicks=ClickLossConfig(**{"examination": "random_order", **changes}))


def test_lists_in_random_order_give_the_curve():
    """Positions 0, 1, 2 of the three shuffled lists were clicked 1, 1 and 1 of 3, 3 and 2 times."""
    objective, judgements = on_device(clicks(), click_config())
    np.testing.assert_allclose(objective.examination, [1.0, 1.0, 1.5])
    with pytest.raises(UserError, match=r"no list is marked.*--loss\.clicks\.examination"):
        objective_of(clicks(extras={}), click_config())
    uncorrected, _ = on_device(clicks(), click_config(examination="none"))
    assert uncorrected.examination == (1.0, 1.0, 1.0)
    # lists without a click, and of one answer, teach nothing
    assert read(judgements.ids_RxSxT.reshape(9, 3)) == ["a", "b", "c", "d", "e", "", "a", "b", "c"]
    assert judgements.said["shown"].tolist() == [[True] * 3, [True, True, False], [True] * 3]
    np.testing.assert_allclose(judgements.said["propensity"][1, :2], [1.0, 1.0])
    np.testing.assert_allclose(judgements.said["propensity"][2], [1.5, 1.0, 1.0])


def test_the_whole_log_gives_the_curve_by_item():
    """Picture and answer together are the item: "a" about picture 0 is not "a" about picture 3."""
    config = click_config(examination="log")
    with pytest.raises(UserError, match="position 2 shares no answer"):
        objective_of(clicks(), config)
    linked = clicks(image_index_L=np.array([0, 0, 1, 2, 0], np.int32))
    examination = objective_of(linked, config).examination
    assert len(examination) == 3 and examination[0] == 1.0


def test_short_stays_are_no_clicks():
    seconds = np.array([[9, 0, 1], [0, 0, 0], [np.nan, 0, 0], [0, 0, 0], [0, 2, 0]], np.float32)
    _, judgements = on_device(clicks(dwell_LxK=seconds), click_config(least_dwell=2.0))
    assert judgements.said["clicked"].tolist() == [
        [True, False, False],
        [True, False, False],
        [False, True, False],
    ]
    with pytest.raises(UserError, match="no list of two"):
        on_device(
            clicks(dwell_LxK=np.nan_to_num(seconds)), click_config(least_dwell=99.0, examination="none")
        )


@pytest.mark.parametrize("loss", ["softmax", "pairwise"])
def test_clicks_are_measured_by_their_order(loss):
    objective = Clicks(ClickLossConfig(loss=loss, self_normalise=False), (1.0, 0.5, 0.25))
    _, judgements = on_device(clicks(), click_config())
    said = judgements.said | {"propensity": jnp.array([[1, 0.5, 0.25], [0.5, 1, 0], [0.25, 0.5, 1]])}
    reward = np.array([[0.0, 0.0, 1.0], [2.0, 1.0, 9.0], [0.0, 3.0, 4.0]], np.float32)
    measured = objective.measure({}, reward, said, np.arange(3))
    # gains: [1, 0, 4] with c first and a, b sharing the places behind; [2, 0] right; [0, 2, 0] second
    discount = 1 / np.log2([2, 3, 4])
    first = (4 * discount[0] + (discount[1] + discount[2]) / 2) / (4 + discount[1])
    assert measured["ndcg"].mean == pytest.approx(np.mean([first, 1.0, discount[1]]))
    shown = [(1 + 4 * discount[2]) / (4 + discount[1]), discount[1], discount[1]]
    assert measured["ndcg_as_shown"] == pytest.approx(np.mean(shown))
    assert measured["log_likelihood_at_random"] == pytest.approx(
        -(5 * np.log(3) + 2 * np.log(2) + 2 * np.log(3)) / 9, rel=1e-5
    )
    top = objective.metrics({}, jnp.asarray(reward), said)["rewards/top_clicked"]
    assert top.tolist() == [1.0, 1.0, 0.0]


def test_every_objective_can_be_static():
    for judged, config in ((pairs(), LossConfig()), (ratings(), LossConfig()), (clicks(), click_config())):
        assert hash(objective_of(judged, config)) == hash(objective_of(judged, config))
    assert isinstance(objective_of(ratings(), LossConfig()), Ratings)
    assert Labels() != Labels(0.1)
