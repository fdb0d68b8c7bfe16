"""What every fusion keeps to, and each one's formula by hand."""

import functools
import math
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrlhf_jax.architecture import FusionName
from mmrlhf_jax.fusion import Fusion, Masks, build_fusion
from mmrlhf_jax.modules import define
from tests.parameters import draw

METHODS = get_args(FusionName)
WEIGHING = ("weighted_sum", "attention")
WIDTHS = {"image": 5, "text": 3, "sound": 4}
SHAPES = {"image": (4, 3, 5), "text": (4, 6, 3), "sound": (4, 4)}  # sound comes as one vector
WIDTH = 8
ALL = np.ones((4, 3), bool)


@functools.cache
def fusion(method: str, *names: str):
    """The definition, its parameters, and the compiled function of (params, features, masks)."""
    widths = {name: WIDTHS[name] for name in names or WIDTHS}
    definition = define(lambda rngs: build_fusion(method, widths, width=WIDTH, rngs=rngs))
    params = draw(definition.abstract())
    return definition, params, jax.jit(lambda params, *inputs: definition.bind(params)(*inputs))


@functools.cache
def compiled_gradients(method: str):
    """Gradients for parameters and features of a number that every row contributes to."""
    definition = fusion(method)[0]

    def summed(params, features, masks):
        return jnp.sum(jnp.sin(definition.bind(params)(features, masks).vector_BxD))

    return jax.jit(jax.grad(summed, argnums=(0, 1)))


def draw_features(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def text_mask(*lengths: int) -> np.ndarray:
    return np.arange(6) < np.array(lengths)[:, None]


MODALITY = np.array([[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
TEXT = text_mask(6, 2, 1, 4)


def hidden_values(features, modality, text, filling) -> dict[str, np.ndarray]:
    """The features with `filling` wherever a mask says that nothing is there."""
    changed = {}
    for index, (name, values) in enumerate(features.items()):
        here = modality[:, index].reshape(-1, *[1] * (values.ndim - 1))
        if name == "text":
            here = here & text[..., None]
        changed[name] = np.where(here, values, np.float32(filling))
    return changed


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("filling", [1e4, np.nan, np.inf], ids=["large", "nan", "inf"])
def test_what_is_masked_reaches_neither_output_nor_gradient(method, filling):
    _, params, apply = fusion(method)
    features, masks = draw_features(), Masks(MODALITY, {"text": TEXT})
    clean, dirty = (hidden_values(features, MODALITY, TEXT, value) for value in (0.0, filling))
    jax.tree.map(np.testing.assert_array_equal, apply(params, dirty, masks), apply(params, clean, masks))
    gradients = compiled_gradients(method)
    jax.tree.map(
        np.testing.assert_array_equal, gradients(params, dirty, masks), gradients(params, clean, masks)
    )
    _, feature_grads = gradients(params, dirty, masks)
    assert not feature_grads["image"][1].any() and not feature_grads["text"][2].any()
    assert not feature_grads["text"][1, 2:].any() and not feature_grads["sound"][3].any()


@pytest.mark.parametrize("method", METHODS)
def test_every_present_modality_gets_gradient(method):
    _, params, _ = fusion(method)
    masks = Masks(ALL, {"text": TEXT})
    param_grads, feature_grads = compiled_gradients(method)(params, draw_features(), masks)
    for row in range(4):
        assert np.all(np.any(feature_grads["image"][row], axis=-1))
        assert np.any(feature_grads["sound"][row])
    assert np.any(feature_grads["text"], axis=-1).tolist() == TEXT.tolist()
    assert all(np.any(layer["kernel"]) for layer in param_grads["project"].values())
    assert not np.any(param_grads["null"]), "nothing is missing"


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_modality_teaches_its_null_vector(method):
    """Where the fusion uses it at all: a weighted sum sees it through its gate."""
    _, params, _ = fusion(method)
    modality = ALL.copy()
    modality[:, 1] = False
    grads, _ = compiled_gradients(method)(params, draw_features(), Masks(modality, {"text": TEXT}))
    assert np.any(grads["null"], axis=-1).tolist() == [False, True, False]


@pytest.mark.parametrize("method", METHODS)
def test_no_masks_mean_that_all_is_there(method):
    _, params, apply = fusion(method)
    features = draw_features()
    bare, full = apply(params, features), apply(params, features, Masks(ALL, {"text": np.ones((4, 6), bool)}))
    np.testing.assert_allclose(bare.vector_BxD, full.vector_BxD, atol=1e-6)
    assert bare.vector_BxD.shape == (4, WIDTH)
    assert (bare.weights_BxM is not None) == (method in WEIGHING)


@pytest.mark.parametrize("method", METHODS)
def test_one_vector_is_one_token(method):
    _, params, apply = fusion(method)
    features = draw_features()
    masks = Masks(MODALITY, {"text": TEXT})
    pooled = apply(params, features, masks)
    tokens = apply(params, features | {"sound": features["sound"][:, None]}, masks)
    np.testing.assert_allclose(tokens.vector_BxD, pooled.vector_BxD, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_rows_do_not_meet(method):
    _, params, apply = fusion(method)
    features, masks = draw_features(), Masks(MODALITY, {"text": TEXT})
    changed = {name: np.concatenate([values[:2], values[2:] + 1]) for name, values in features.items()}
    one, other = apply(params, features, masks).vector_BxD, apply(params, changed, masks).vector_BxD
    np.testing.assert_array_equal(one[:2], other[:2])
    assert np.all(np.abs(one[2:] - other[2:]).max(axis=1) > 1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_one_modality(method):
    _, params, apply = fusion(method, "text")
    features = {"text": draw_features()["text"]}
    fused = apply(params, features, Masks(None, {"text": TEXT}))
    assert fused.vector_BxD.shape == (4, WIDTH) and np.isfinite(fused.vector_BxD).all()
    if fused.weights_BxM is not None:
        np.testing.assert_allclose(fused.weights_BxM, np.ones((4, 1)), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_modalities_are_told_apart(method):
    """Two modalities of one width, exchanged, give another vector."""
    definition = define(lambda rngs: build_fusion(method, {"a": 3, "b": 3}, width=WIDTH, rngs=rngs))
    params = draw(definition.abstract())
    params["project"][1] = params["project"][0]
    a, b = np.random.default_rng(1).normal(size=(2, 4, 3)).astype(np.float32)
    apply = jax.jit(lambda params, features: definition.bind(params)(features).vector_BxD)
    difference = apply(params, {"a": a, "b": b}) - apply(params, {"a": b, "b": a})
    assert np.abs(difference).max() > 1e-4


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(
    present=st.lists(st.tuples(*[st.booleans()] * 3), min_size=4, max_size=4),
    lengths=st.lists(st.integers(0, 6), min_size=4, max_size=4),
    seed=st.integers(0, 9),
)
def test_any_masks(method, present, lengths, seed):
    """Empty texts and rows without any modality included."""
    _, params, apply = fusion(method)
    modality, text = np.array(present), text_mask(*lengths)
    features, masks = draw_features(seed), Masks(modality, {"text": text})
    dirty = hidden_values(features, modality, text, np.nan)
    fused = apply(params, dirty, masks)
    assert np.isfinite(fused.vector_BxD).all()
    np.testing.assert_array_equal(fused.vector_BxD, apply(params, features, masks).vector_BxD)
    gradients = compiled_gradients(method)(params, dirty, masks)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    if fused.weights_BxM is not None:
        weights = np.asarray(fused.weights_BxM)
        np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
        assert weights.min() >= 0
    if method == "weighted_sum":
        some = modality.any(axis=1)
        assert not weights[some][~modality[some]].any()


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def linear(layer, x):
    return np.asarray(x, np.float64) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def entered_by_hand(params, row: int, features, modality, text) -> list[np.ndarray]:
    """The real tokens (T, D) of each modality of one row, or its null vector."""
    found = []
    for index, name in enumerate(WIDTHS):
        values = features[name][row].reshape(-1, WIDTHS[name])
        if name == "text":
            values = values[text[row]]
        tokens = linear(params["project"][index], values)
        found.append(tokens if modality[row, index] else np.asarray(params["null"])[index : index + 1])
    return found


def test_concat_by_hand():
    _, params, apply = fusion("concat")
    features = draw_features()
    fused = apply(params, features, Masks(MODALITY, {"text": TEXT}))
    for row in range(4):
        means = [tokens.mean(axis=0) for tokens in entered_by_hand(params, row, features, MODALITY, TEXT)]
        wanted = linear(params["out"], gelu(linear(params["hidden"], np.concatenate(means))))
        np.testing.assert_allclose(fused.vector_BxD[row], wanted, rtol=1e-4, atol=1e-5)


def test_weighted_sum_by_hand():
    _, params, apply = fusion("weighted_sum")
    features = draw_features()
    fused = apply(params, features, Masks(MODALITY, {"text": TEXT}))
    for row in range(4):
        means = [tokens.mean(axis=0) for tokens in entered_by_hand(params, row, features, MODALITY, TEXT)]
        scores = np.exp(linear(params["gate"], np.concatenate(means))) * MODALITY[row]
        weights = scores / scores.sum()
        mixed = sum(weight * mean for weight, mean in zip(weights, means, strict=True))
        wanted = linear(params["out"], gelu(linear(params["hidden"], mixed)))
        np.testing.assert_allclose(fused.weights_BxM[row], weights, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(fused.vector_BxD[row], wanted, rtol=1e-4, atol=1e-5)


def normed(layer, x, eps):
    x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    return x * np.asarray(layer["scale"]) + np.asarray(layer["bias"])


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def test_attention_by_hand():
    """Real tokens alone, and one null token for a missing modality, through block and gathering query."""
    _, params, apply = fusion("attention")
    features = draw_features()
    fused = apply(params, features, Masks(MODALITY, {"text": TEXT}))
    block = params["block"]
    for row in range(4):
        entered = entered_by_hand(params, row, features, MODALITY, TEXT)
        x = np.concatenate([t + np.asarray(params["kind"])[i] for i, t in enumerate(entered)])
        query, key, value = np.split(linear(block["qkv"], normed(block["norm1"], x, 1e-5)), 3, axis=-1)
        x = x + linear(block["out"], softmax(query @ key.T / math.sqrt(WIDTH)) @ value)  # one head
        x = x + linear(block["down"], gelu(linear(block["up"], normed(block["norm2"], x, 1e-5))))
        x = normed(params["norm"], x, 1e-6)
        attention = softmax(linear(params["key"], x) @ np.asarray(params["query"]) / math.sqrt(WIDTH))
        np.testing.assert_allclose(
            fused.vector_BxD[row], attention @ linear(params["value"], x), rtol=1e-4, atol=1e-5
        )
        parts = np.split(attention, np.cumsum([len(tokens) for tokens in entered])[:-1])
        wanted = [part.sum() for part in parts]
        np.testing.assert_allclose(fused.weights_BxM[row], wanted, rtol=1e-4, atol=1e-6)


def test_names_and_classes():
    for method in METHODS:
        definition, params, _ = fusion(method)
        module = definition.bind(params)
        assert isinstance(module, Fusion) and module.names == tuple(WIDTHS)
        assert type(module).__name__.removesuffix("Fusion").lower() == method.replace("_", "")
