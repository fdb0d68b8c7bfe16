"""The host callback that scores texts: jit, vmap, and scorers that fail."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmrlhf_jax.data.tokens import PAD_ID, CaptionTokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.reward.ledger import require_finite
from mmrlhf_jax.reward.text import TextTerm, load_scorer
from mmrlhf_jax.types import Completions

TOKENIZER = CaptionTokenizer.train(["a red cat", "two dogs"], vocab_size=280)
TEXTS = ["a red cat", "two dogs", "", "a cat"]


def completions(texts: list[str], length: int = 16) -> Completions:
    ids = jnp.asarray(TOKENIZER.encode_batch(texts, length))
    return Completions(ids, ids != PAD_ID)


def lengths(texts: list[str]) -> list[float]:
    return [len(text) for text in texts]


def test_under_jit_it_gives_what_the_function_gives_for_the_decoded_texts():
    term = TextTerm(lengths, TOKENIZER.decode_batch)
    scores = jax.jit(term)(completions(TEXTS))
    assert scores.dtype == jnp.float32
    np.testing.assert_array_equal(scores, [9, 8, 0, 5])
    np.testing.assert_array_equal(term(completions(TEXTS)), [9, 8, 0, 5])


def test_behind_the_end_nothing_is_read():
    ids, mask = completions(TEXTS)
    cut = mask & (jnp.arange(16) < 2)[None]  # no end token, as a completion that was cut
    dirty = Completions(jnp.where(cut, ids, ids[:1, :1]), cut)
    clean = Completions(jnp.where(cut, ids, PAD_ID), cut)
    term = TextTerm(lengths, TOKENIZER.decode_batch)
    np.testing.assert_array_equal(jax.jit(term)(dirty), jax.jit(term)(clean))


def test_all_members_of_a_vmap_come_in_one_call():
    calls = []

    def scorer(texts):
        calls.append(list(texts))
        return lengths(texts)

    term = TextTerm(scorer, TOKENIZER.decode_batch)
    two = jax.tree.map(lambda leaf: leaf.reshape(2, 2, -1), completions(TEXTS))
    scores = jax.jit(jax.vmap(term))(two)
    np.testing.assert_array_equal(scores, [[9, 8], [0, 5]])
    assert calls == [TEXTS]
    four = jax.tree.map(lambda leaf: leaf.reshape(2, 2, 1, -1), completions(TEXTS))
    np.testing.assert_array_equal(jax.vmap(jax.vmap(term))(four)[..., 0], [[9, 8], [0, 5]])
    assert calls[1:] == [TEXTS]


def raising(texts):
    raise KeyError("no such\nword")


@pytest.mark.parametrize(
    ("scorer", "failure"),
    [
        (raising, "KeyError: 'no such\\nword'"),
        (lambda texts: [1.0], "ValueError: gave shape [1] for 4 texts"),
        (lambda texts: [[1.0]] * 4, "ValueError: gave shape [4, 1] for 4 texts"),
        (lambda texts: ["good"] * 4, "ValueError: could not convert string to float: 'good'"),
    ],
)
def test_a_scorer_that_fails_is_one_line(scorer, failure):
    term = TextTerm(scorer, TOKENIZER.decode_batch)
    scores = jax.jit(term)(completions(TEXTS))
    assert np.isnan(scores).all() and term.failure == failure
    with pytest.raises(UserError, match="'text' is not a finite number") as error:
        require_finite({"text": scores}, {"text": term.failure})
    assert failure in str(error.value) and "\n" not in str(error.value)


def test_scorers_are_named_on_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "my_scorers.py").write_text(
        "def brief(texts):\n    return [-len(t) for t in texts]\nlimit = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    assert load_scorer("my_scorers:brief")(["abc"]) == [-3]
    assert sys.path == path
    for name in ("my_scorers:missing", "my_scorers", "no_such_module:brief", ":brief", "my_scorers:limit"):
        with pytest.raises(UserError, match=r"is no scorer.*MODULE:FUNCTION"):
            load_scorer(name)
