"""Each fusion's formula by hand, those that are cases of others, and the costs that the docstrings state."""

import functools
import inspect
import math
import re
from typing import get_args

import jax
import numpy as np
import pytest

from mmrlhf_jax.architecture import FusionName
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.fusion import (
    LateFusion,
    LowRankFusion,
    Masks,
    PerceiverFusion,
    TensorFusion,
    UnimodalFusion,
    WeightedSumFixedFusion,
    build_fusion,
)
from mmrlhf_jax.modules import count_params, define
from tests.parameters import draw

METHODS = get_args(FusionName)
SINGLE = {"image_only": "image", "text_only": "text"}
WIDTHS = {"image": 5, "text": 3, "sound": 4}
WIDTH = 8
MODALITY = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
TEXT = np.arange(6) < np.array([6, 2, 1, 4])[:, None]
MASKS = Masks(MODALITY, {"text": TEXT})
FEATURES = {
    name: np.random.default_rng(index).normal(size=shape).astype(np.float32)
    for index, (name, shape) in enumerate({"image": (4, 3, 5), "text": (4, 6, 3), "sound": (4, 4)}.items())
}


def compiled(build):
    """Parameters of the fusion that `build(rngs)` makes, and the compiled function of them and the inputs."""
    definition = define(build)
    return draw(definition.abstract()), jax.jit(lambda params, *inputs: definition.bind(params)(*inputs))


@functools.cache
def outcome(method: str):
    """Parameters and what the fusion makes of the features above."""
    params, apply = compiled(lambda rngs: build_fusion(method, WIDTHS, width=WIDTH, rngs=rngs))
    return params, apply(params, FEATURES, MASKS)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def linear(layer, x):
    x = np.asarray(x, np.float64) @ np.asarray(layer["kernel"])
    return x + np.asarray(layer["bias"]) if "bias" in layer else x


def normed(layer, x, eps=1e-6):
    x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    return x * np.asarray(layer["scale"]) + np.asarray(layer["bias"])


def softmax(x, axis=-1):
    return np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)


def mlp(params, x):
    return linear(params["out"], gelu(linear(params["hidden"], x)))


def attend(params, x, asked):
    """One head."""
    query = linear(params["query"], normed(params["norm_query"], x))
    key, value = np.split(linear(params["key_value"], normed(params["norm_key"], asked)), 2, axis=-1)
    attention = softmax(query @ key.T / math.sqrt(WIDTH))
    return linear(params["out"], attention @ value), attention


def enter(params, row: int, names=tuple(WIDTHS)) -> list[np.ndarray]:
    """The real tokens (T, D) of each modality of one row, or its null vector."""
    found = []
    for index, name in enumerate(names):
        values = FEATURES[name][row].reshape(-1, WIDTHS[name])
        tokens = linear(params["project"][index], values[TEXT[row]] if name == "text" else values)
        there = MODALITY[row, list(WIDTHS).index(name)]
        found.append(tokens if there else np.asarray(params["null"])[index : index + 1])
    return found


def weighed(params, x, weights):
    weights = weights / weights.sum()
    return mlp(params, weights @ x), weights


# Each takes the parameters, the tokens of each modality of a row, their means and which modalities are there;
# it returns the vector and the weights.


def concat(params, tokens, means, there):
    return mlp(params, np.concatenate(means)), None


def concat_linear(params, tokens, means, there):
    return linear(params["out"], np.concatenate(means)), None


def weighted_sum(params, tokens, means, there):
    return weighed(params, means, np.exp(linear(params["gate"], np.concatenate(means))) * there)


def weighted_sum_learned(params, tokens, means, there):
    return weighed(params, means, np.exp(params["scores"]) * there)


def weighted_sum_fixed(params, tokens, means, there):
    return weighed(params, means, 1.0 * there)


def attention(params, tokens, means, there):
    block = params["block"]
    x = np.concatenate([t + np.asarray(params["kind"])[i] for i, t in enumerate(tokens)])
    query, key, value = np.split(linear(block["qkv"], normed(block["norm1"], x, 1e-5)), 3, axis=-1)
    x = x + linear(block["out"], softmax(query @ key.T / math.sqrt(WIDTH)) @ value)  # one head
    x = x + linear(block["down"], gelu(linear(block["up"], normed(block["norm2"], x, 1e-5))))
    x = normed(params["norm"], x)
    shares = softmax(linear(params["key"], x) @ np.asarray(params["query"]) / math.sqrt(WIDTH))
    return shares @ linear(params["value"], x), by_modality(shares, tokens)


def by_modality(shares, tokens):
    return [part.sum() for part in np.split(shares, np.cumsum([len(t) for t in tokens])[:-1])]


def cross_attention(params, tokens, means, there):
    answers = []
    for index, x in enumerate(tokens):
        others = np.concatenate([t for i, t in enumerate(tokens) if i != index])
        answers.append((x + attend(params["ask"][index], x, others)[0]).mean(axis=0))
    return mlp(params, np.concatenate(answers)), None


def perceiver(params, tokens, means, there):
    x = np.concatenate([t + np.asarray(params["kind"])[i] for i, t in enumerate(tokens)])
    query, weights = np.asarray(params["queries"], np.float64), 0
    for layer in params["layers"].values():
        gathered, seen = attend(layer["attend"], query, np.concatenate([x, query]))
        query = query + gathered
        query = query + linear(layer["down"], gelu(linear(layer["up"], normed(layer["norm"], query))))
        seen = seen[:, : len(x)].sum(axis=0)
        weights += seen / seen.sum() / len(params["layers"])
    return linear(params["out"], normed(params["norm"], query).reshape(-1)), by_modality(weights, tokens)


def gated(params, tokens, means, there):
    scores = np.exp(linear(params["gate"], np.concatenate(means)).reshape(3, WIDTH)) * there[:, None]
    gates = scores / scores.sum(axis=0)
    return (gates * np.tanh(means)).sum(axis=0), gates.mean(axis=1)


def film(params, tokens, means, there):
    scale, shift = np.split(linear(params["modulate"], np.concatenate(means[1:])), 2)
    return linear(params["out"], gelu((1 + scale) * tokens[0] + shift).mean(axis=0)), None


def low_rank(params, tokens, means, there):
    factors = [linear(params["factors"][index], mean).reshape(4, WIDTH) for index, mean in enumerate(means)]
    return np.prod(factors, axis=0).sum(axis=0) / 2, None


def tensor(params, tokens, means, there):
    one, two, three = (np.append(mean, 1) for mean in means)
    kernel = np.asarray(params["out"]["kernel"]).reshape(9, 9, 9, WIDTH)
    return np.einsum("i,j,k,ijkd->d", one, two, three, kernel), None


def late(params, tokens, means, there):
    judged = [mlp({k: params[k][i] for k in ("hidden", "out")}, mean) for i, mean in enumerate(means)]
    return np.mean(np.array(judged)[there], axis=0), there / there.sum()


def image_only(params, tokens, means, there):
    return mlp(params, means[0]), [1, 0, 0]


def text_only(params, tokens, means, there):
    return mlp(params, means[0]), [0, 1, 0]


@pytest.mark.parametrize("method", METHODS)
def test_by_hand(method):
    """Real tokens alone, and one null token for a missing modality."""
    params, fused = outcome(method)
    for row in range(4):
        tokens = enter(params, row, (SINGLE[method],) if method in SINGLE else tuple(WIDTHS))
        means = np.stack([t.mean(axis=0) for t in tokens])
        vector, weights = globals()[method](params, tokens, means, MODALITY[row])
        np.testing.assert_allclose(fused.vector_BxD[row], vector, rtol=1e-4, atol=1e-5)
        assert (weights is None) == (fused.weights_BxM is None)
        if weights is not None:
            np.testing.assert_allclose(fused.weights_BxM[row], weights, rtol=1e-4, atol=1e-6)


def test_one_fixed_weight_is_one_modality():
    """Where it is missing too: both then see its null vector."""
    params, apply = compiled(
        lambda rngs: WeightedSumFixedFusion(WIDTHS, width=WIDTH, weights=(0, 2, 0), rngs=rngs)
    )
    _, alone = compiled(lambda rngs: UnimodalFusion(WIDTHS, only="text", width=WIDTH, rngs=rngs))
    part = {**params, "project": {0: params["project"][1]}, "null": params["null"][1:2]}
    fused, single = apply(params, FEATURES, MASKS), alone(part, FEATURES, MASKS)
    assert not MODALITY[:, 1].all()
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), fused, single)


def test_fixed_weights_are_learned_ones_that_stand_still():
    chosen = (0.5, 2.0, 1.5)
    params, apply = compiled(
        lambda rngs: WeightedSumFixedFusion(WIDTHS, width=WIDTH, weights=chosen, rngs=rngs)
    )
    _, learned = compiled(lambda rngs: build_fusion("weighted_sum_learned", WIDTHS, width=WIDTH, rngs=rngs))
    fused = apply(params, FEATURES, MASKS)
    same = learned({**params, "scores": np.log(np.array(chosen, np.float32))}, FEATURES, MASKS)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), fused, same)
    np.testing.assert_allclose(fused.weights_BxM[:2], [[0.125, 0.5, 0.375], [0, 4 / 7, 3 / 7]], rtol=1e-5)


def test_late_fusion_of_one_modality_is_that_modality_alone():
    params, apply = compiled(lambda rngs: LateFusion({"text": 3}, width=WIDTH, rngs=rngs))
    _, alone = compiled(lambda rngs: UnimodalFusion({"text": 3}, only="text", width=WIDTH, rngs=rngs))
    inputs = {"text": FEATURES["text"]}, Masks(MODALITY[:, 1:2], {"text": TEXT})
    single = alone({**params, "hidden": params["hidden"][0], "out": params["out"][0]}, *inputs)
    jax.tree.map(np.testing.assert_array_equal, apply(params, *inputs), single)


@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_is_tensor_fusion_with_a_tensor_of_that_rank(rank):
    params, apply = compiled(lambda rngs: LowRankFusion(WIDTHS, width=WIDTH, rank=rank, rngs=rngs))
    _, full = compiled(lambda rngs: TensorFusion(WIDTHS, width=WIDTH, rngs=rngs))
    one, two, three = (
        np.concatenate([params["factors"][m]["kernel"], params["factors"][m]["bias"][None]])
        .reshape(WIDTH + 1, rank, WIDTH)
        .astype(np.float64)
        for m in range(3)
    )
    kernel = np.einsum("ird,jrd,krd->ijkd", one, two, three).reshape(-1, WIDTH) / math.sqrt(rank)
    written_out = {k: params[k] for k in ("project", "null")} | {"out": {"kernel": kernel.astype(np.float32)}}
    np.testing.assert_allclose(
        full(written_out, FEATURES, MASKS).vector_BxD,
        apply(params, FEATURES, MASKS).vector_BxD,
        rtol=1e-3,
        atol=1e-3,
    )


def test_gates_of_two_modalities_are_the_sigmoid_of_the_paper():
    """z tanh(x_1) + (1 - z) tanh(x_2), Arevalo et al. 2017, section 3.1."""
    widths = {"image": 5, "text": 3}
    params, apply = compiled(lambda rngs: build_fusion("gated", widths, width=WIDTH, rngs=rngs))
    features = {name: FEATURES[name][:, 0] for name in widths}
    one, two = (linear(params["project"][i], features[name]) for i, name in enumerate(widths))
    scores = linear(params["gate"], np.concatenate([one, two], axis=1))
    z = 1 / (1 + np.exp(scores[:, WIDTH:] - scores[:, :WIDTH]))
    wanted = z * np.tanh(one) + (1 - z) * np.tanh(two)
    np.testing.assert_allclose(apply(params, features).vector_BxD, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weights", [(1, 2), (1, -1, 1), (0, 0, 0), (1, math.nan, 1), (1, math.inf, 1)])
def test_bad_fixed_weights_are_refused(weights):
    with pytest.raises(UserError, match=r"fixed weights .* for each of image, text, sound"):
        define(lambda rngs: WeightedSumFixedFusion(WIDTHS, width=WIDTH, weights=weights, rngs=rngs))


@pytest.mark.parametrize(
    "build",
    [
        lambda rngs: LowRankFusion(WIDTHS, width=WIDTH, rank=0, rngs=rngs),
        lambda rngs: PerceiverFusion(WIDTHS, width=WIDTH, queries=0, rngs=rngs),
        lambda rngs: PerceiverFusion(WIDTHS, width=WIDTH, layers=0, rngs=rngs),
    ],
)
def test_bad_sizes_are_refused(build):
    with pytest.raises(UserError, match="is 0: give a whole number"):
        define(build)


def stated(module, what: str, lengths: list[int]) -> float:
    """The number that a docstring states for the module and tokens of these lengths in a row."""
    widths = [layer.in_features for layer in module.project]
    count, width = len(widths), module.null.shape[1]
    sizes = {
        "E": width * sum(widths) + 2 * count * width,
        "F": 2 * width * sum(size * length for size, length in zip(widths, lengths, strict=True)),
        "M": count,
        "D": width,
        "T": sum(lengths),
        "S": sum(length**2 for length in lengths),
        "R": getattr(module, "rank", None),
        "Q": module.queries.shape[0] if hasattr(module, "queries") else None,
        "L": len(module.layers) if hasattr(module, "layers") else None,
    }
    formula = re.search(rf"^ *{what}: (.+)$", inspect.getdoc(type(module)), flags=re.MULTILINE)[1]
    return eval(formula, {"max": max}, sizes)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [(4,), (3, 6), (5, 3, 4), (2, 7, 3, 1)], ids=len)
@pytest.mark.parametrize("width", [4, 7])
def test_number_of_parameters(method, sizes, width):
    names = [SINGLE.get(method, "image"), "a", "b", "c"]
    definition = define(
        lambda rngs: build_fusion(method, dict(zip(names, sizes, strict=False)), width=width, rngs=rngs)
    )
    module = definition.bind(definition.abstract())
    assert count_params(definition.abstract()) == stated(module, "Parameters", [1] * len(module.read))


@pytest.mark.parametrize("method", METHODS)
def test_number_of_operations(method):
    """XLA's own count of the program holds norms, softmaxes and sums too: at most 5 % at these widths."""
    widths, lengths, batch = {"image": 256, "text": 192}, {"image": 12, "text": 7}, 4
    definition = define(lambda rngs: build_fusion(method, widths, width=128, rngs=rngs))
    params = definition.abstract()
    features = {
        name: jax.ShapeDtypeStruct((batch, lengths[name], size), np.float32) for name, size in widths.items()
    }
    lowered = jax.jit(lambda params, features: definition.bind(params)(features)).lower(params, features)
    module = definition.bind(params)
    wanted = stated(module, "FLOPs", [lengths[name] for name in module.read])
    assert wanted <= lowered.cost_analysis()["flops"] / batch < 1.05 * wanted
