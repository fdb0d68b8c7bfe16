"""Two policies on the same held-out pictures: captions, gold rubric, reward terms, distance."""

import dataclasses
import functools

import jax
import numpy as np

from mmrlhf_jax.data.captions import CaptionSet
from mmrlhf_jax.data.chunks import in_chunks
from mmrlhf_jax.evaluate.captions import bleu, cider_d, distinct_n, exact_match, mean_length
from mmrlhf_jax.feedback.rubric import Rubric
from mmrlhf_jax.policy.captioner import Captioner
from mmrlhf_jax.reward.composite import Views, raw_terms
from mmrlhf_jax.reward.ledger import require_finite
from mmrlhf_jax.training.networks import Frozen, Networks, bind_judges, no_views
from mmrlhf_jax.types import Completions


@dataclasses.dataclass(frozen=True)
class Judged:
    """R captions of one policy for N pictures (R a multiple of N; row r belongs to picture r mod N).

    Attributes:
      texts: the captions.
      gold_R: the noiseless rubric, in [0, 1].
      aspects_Rx5: its aspects (accurate, grounded, fluent, concise, considerate).
      cider_R: CIDEr-D against the picture's captions.
      terms: raw reward terms by name, (R,) each.
      logprobs: log-probability of each whole caption under "sft" and under "rl", (R,) each, in nats.
    """

    texts: list[str]
    gold_R: np.ndarray
    aspects_Rx5: np.ndarray
    cider_R: np.ndarray
    terms: dict[str, np.ndarray]
    logprobs: dict[str, np.ndarray]

    def numbers(self, references: list[list[str]]) -> dict[str, float]:
        """Means over all captions; `references` are the right captions of each picture."""
        references = references * (len(self.texts) // len(references))
        return {
            "gold": float(np.mean(self.gold_R)),
            "cider_d": float(np.mean(self.cider_R)),
            "bleu_4_add_one": bleu(self.texts, references, smooth="add-one"),
            "exact_match": exact_match(self.texts, references),
            "length": mean_length(self.texts),
            "distinct_1": distinct_n(self.texts, 1),
            "distinct_2": distinct_n(self.texts, 2),
            **{f"aspect/{n}": float(v) for n, v in zip(ASPECTS, self.aspects_Rx5.mean(axis=0), strict=True)},
            **{f"reward/{name}": float(np.mean(values)) for name, values in self.terms.items()},
        }


ASPECTS = ("accurate", "grounded", "fluent", "concise", "considerate")


def judge_policy(
    writer: Captioner,
    policies: dict[str, Captioner],
    captions: CaptionSet,
    rubric: Rubric,
    networks: Networks,
    frozen: Frozen,
    *,
    temperature: float,
    samples: int,
    seed: int,
) -> Judged:
    """Samples `samples` captions a picture from `writer` and judges them.

    Args:
      policies: those whose log-probabilities are wanted, by name.
      frozen: with `views` of exactly these pictures.
      temperature: 0 for the likeliest captions.
    """
    rows_R = np.tile(np.arange(len(captions)), samples)
    image_RxHxWxC = captions.images_NxHxWxC[rows_R]
    completions = writer.sample(image_RxHxWxC, temperature=temperature, seed=seed)
    texts = writer.tokenizer.decode_batch(np.asarray(completions.ids_BxT))
    shown = [captions.captions[i] for i in rows_R]
    aspects_Rx5 = rubric.aspect_table(texts, shown)

    judges = frozen._replace(views=no_views())  # their number would be a part of the compiled program
    terms = in_chunks(
        lambda rows_B: _terms(
            networks,
            judges,
            jax.tree.map(lambda leaf: leaf[rows_R[rows_B]], frozen.views),
            jax.tree.map(lambda leaf: leaf[rows_B], completions),
        ),
        len(rows_R),
        256,
    )
    require_finite(terms, networks.reasons())
    return Judged(
        texts,
        rubric.utilities(texts, shown),
        aspects_Rx5,
        cider_d(texts, [list(caption.texts) for caption in shown]),
        terms,
        {name: policy.logprobs(image_RxHxWxC, completions) for name, policy in policies.items()},
    )


@functools.partial(jax.jit, static_argnums=0)
def _terms(
    networks: Networks, frozen: Frozen, views: Views, completions: Completions
) -> dict[str, jax.Array]:
    return raw_terms(bind_judges(networks, frozen), views, completions)
