"""What is measured on a trained method: accuracy, attribution, weights, robustness; all seeds at once."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.data.chunks import in_chunks
from mmrlhf_jax.data.fusion_tasks import FusionExamples
from mmrlhf_jax.evaluate.attribution import Score, attribute, share
from mmrlhf_jax.evaluate.preference import win_points
from mmrlhf_jax.modules import Definition, Params
from mmrlhf_jax.training.fusion_benchmark.data import TaskData
from mmrlhf_jax.training.fusion_benchmark.trial import MODALITIES, Asked, Judge

SHARED = ("accuracy", "picture_shuffled", "picture_absent", "text_shuffled", "text_absent", "nothing")
AVERAGED = (*SHARED, "emap", "emap_full", "picture_shapley", "text_shapley")


def accuracies(
    model: Definition[Judge], params: Params, examples: FusionExamples, *, masked: bool = True
) -> np.ndarray:
    """Accuracy of each seed on its own examples, (K,); a log-odds of 0 counts half.

    Args:
      masked: False hides from the model which modalities are missing.
    """
    present_KxNx2 = examples.present_Nx2 if masked else jnp.ones_like(examples.present_Nx2)
    return _accuracy(_ask_all(model, params, examples, present_KxNx2), examples)


def measure(
    model: Definition[Judge], params: Params, data: TaskData, noise: tuple[float, ...]
) -> dict[str, Any]:
    """Everything about a trained method on one task; a list has a number for each seed."""
    whole = data.complete or data.test  # with every modality there
    asked = _ask_all(model, params, whole, whole.present_Nx2)
    result: dict[str, Any] = {
        "accuracy": accuracies(model, params, data.test),
        "weights": _weights(asked, whole),
        "attribution": _attribution(model, params, whole),
        "robustness": {
            "noise": noise,
            **{name: _robustness(model, params, data.test, name, noise) for name in MODALITIES},
        },
    }
    if data.complete is not None:
        result["accuracy_complete"] = _accuracy(asked, whole)
    return result


def _weights(asked: Asked, examples: FusionExamples) -> dict[str, Any] | None:
    """The picture's weight: mean, spread over the inputs, and correlation with its honesty where known."""
    if asked.weights_Nx2 is None:
        return None
    weight_KxN = np.asarray(asked.weights_Nx2)[..., 0]
    result: dict[str, Any] = {"picture_mean": weight_KxN.mean(1), "picture_spread": weight_KxN.std(1)}
    if examples.honest_N is not None:
        pairs = list(zip(weight_KxN, np.asarray(examples.honest_N), strict=True))
        # A weight that never moves correlates with nothing.
        result["honesty_correlation"] = [
            float(np.corrcoef(weight_N, honest_N)[0, 1]) if np.ptp(weight_N) > 1e-6 else 0.0
            for weight_N, honest_N in pairs
        ]
        for name, honest in (("picture_honest", 1), ("picture_lying", 0)):
            result[name] = [float(np.mean(weight_N[honest_N == honest])) for weight_N, honest_N in pairs]
    return result


def _attribution(model: Definition[Judge], params: Params, examples: FusionExamples) -> dict[str, Any]:
    """Attribution averaged over the seeds; the share is that of the mean Shapley values."""
    score_of = _shared_scores(model, params, examples)
    label_KxN = np.asarray(examples.label_N)
    each = [attribute(score_of(seed), label_N) for seed, label_N in enumerate(label_KxN)]
    mean = {name: float(np.mean([getattr(one, name) for one in each])) for name in AVERAGED}
    return mean | {
        "picture_share": share(mean["picture_shapley"], mean["text_shapley"]),
        "picture_share_by_seed": [one.picture_share for one in each],
        "picture_adds_nothing_in_seeds": sum(one.warning is not None for one in each),
    }


def _shared_scores(
    model: Definition[Judge], params: Params, examples: FusionExamples
) -> Callable[[int], Score]:
    """The score of each seed; a question is put to all seeds together the first time one of them asks it."""
    count = examples.label_N.shape[1]

    @functools.cache
    def answers(image: bytes, text: bytes, present: bytes) -> np.ndarray:
        image_R, text_R = np.frombuffer(image, np.int64), np.frombuffer(text, np.int64)
        present_Rx2 = np.frombuffer(present, bool).reshape(-1, 2)

        def chunk(rows: np.ndarray) -> jax.Array:
            present_KxRx2 = np.broadcast_to(present_Rx2[rows], (len(examples.label_N), len(rows), 2))
            return _ask(model, params, examples, image_R[rows], text_R[rows], present_KxRx2).logit_N.T

        return in_chunks(chunk, len(image_R), count)  # in the one length that is compiled anyway

    def of_seed(seed: int) -> Score:
        def score(image_rows: np.ndarray, text_rows: np.ndarray, present: np.ndarray) -> np.ndarray:
            images, texts = image_rows.astype(np.int64), text_rows.astype(np.int64)
            return answers(images.tobytes(), texts.tobytes(), present.astype(bool).tobytes())[:, seed]

        return score

    return of_seed


def _robustness(
    model: Definition[Judge], params: Params, examples: FusionExamples, name: str, noise: tuple[float, ...]
) -> list[float]:
    """Mean accuracy at each level of noise on one modality."""
    means = []
    fields = ("image_NxD",) if name == "image" else ("text_NxD", "other_NxD")
    for level in noise:
        noisy = examples
        for field in fields:
            clean = getattr(examples, field)
            if clean is not None:
                spread = jnp.std(clean, axis=1, keepdims=True)
                drawn = jax.random.normal(
                    jax.random.fold_in(jax.random.key(1), fields.index(field)), clean.shape
                )
                noisy = noisy._replace(**{field: clean + level * spread * drawn})
        means.append(float(np.mean(accuracies(model, params, noisy))))
    return means


def _accuracy(asked: Asked, examples: FusionExamples) -> np.ndarray:
    sign_KxN = np.where(np.asarray(examples.label_N) > 0, 1.0, -1.0)
    return win_points(sign_KxN * np.asarray(asked.logit_N)).mean(axis=1)


def _ask_all(
    model: Definition[Judge], params: Params, examples: FusionExamples, present_KxNx2: jax.Array
) -> Asked:
    rows_N = np.arange(examples.label_N.shape[1])
    return _ask(model, params, examples, rows_N, rows_N, present_KxNx2)


def _ask(
    model: Definition[Judge],
    params: Params,
    examples: FusionExamples,
    image_R: np.ndarray,
    text_R: np.ndarray,
    present_KxRx2: jax.Array | np.ndarray,
) -> Asked:
    """What all K seeds say of R examples put together from rows of their own."""
    examples = examples._replace(honest_N=None)  # of one structure on all tasks: one program
    return _ask_compiled(model, params, examples, image_R, text_R, present_KxRx2)


@functools.partial(jax.jit, static_argnums=0)
def _ask_compiled(
    model: Definition[Judge],
    params: Params,
    examples: FusionExamples,
    image_R: jax.Array,
    text_R: jax.Array,
    present_KxRx2: jax.Array,
) -> Asked:

    def one(params: Params, examples: FusionExamples, present_Rx2: jax.Array) -> Asked:
        other_NxD = examples.other_NxD
        asked = FusionExamples(
            examples.image_NxD[image_R],
            examples.text_NxD[text_R],
            examples.label_N[text_R],
            present_Rx2,
            None if other_NxD is None else other_NxD[text_R],
        )
        return model.bind(params).ask(asked)

    return jax.vmap(one)(params, examples, present_KxRx2)
