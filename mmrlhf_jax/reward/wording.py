"""Finding the words of a list in token ids, on the device, however a policy spells them in tokens.

A policy that is punished for a word finds another way to cut it into tokens, so tokens are not compared but
read: the words are one automaton over bytes (Aho & Corasick 1975), and `word_table` turns it into a table
that goes from state to state a whole token at a time.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmrlhf_jax.errors import UserError

# States of the automaton: between words, within a word that is not listed; then the listed words' prefixes.
_BETWEEN, _OTHER = 0, 1
_LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789"
_SYMBOLS = b"\xe2\xf0"  # the first byte of a typographic sign or symbol, and of an emoji, in UTF-8


class WordTable(NamedTuple):
    """An automaton that reads tokens; S states, state 0 at the start of a text.

    Attributes:
      next_SxV: int16, the state after a token.
      found_SxV: int8, how many listed words end within a token.
      ends_S: int8, 1 where a text that ends here ends with a listed word.
    """

    next_SxV: jax.Array
    found_SxV: jax.Array
    ends_S: jax.Array


def word_table(words: Iterable[str], token_bytes: Sequence[bytes], vocab_size: int) -> WordTable:
    """The automaton of `words` for a vocabulary; built once, on the host.

    A word is a run of letters and digits, upper or lower case; hyphens, apostrophes, symbols and emoji part
    words. S is about the number of letters in `words`, so the table takes 3 bytes x letters x vocabulary.

    Args:
      token_bytes: what each token stands for, by id; an empty one parts words.
      vocab_size: V; ids without bytes part words too.

    Raises:
      UserError: a word has other characters than a-z and 0-9, so that it would never be found.
    """
    step_256xS, ends_S = _byte_automaton(words)
    states = np.arange(len(ends_S))
    next_SxV = np.full((len(states), vocab_size), _BETWEEN, np.int16)
    found_SxV = np.zeros((len(states), vocab_size), np.int8)
    for token in range(vocab_size):
        spelled = token_bytes[token] if token < len(token_bytes) else b""
        now_S = states
        for byte in spelled or b" ":
            after_S = step_256xS[byte, now_S]
            found_SxV[:, token] += ends_S[now_S] * (after_S == _BETWEEN)
            now_S = after_S
        next_SxV[:, token] = now_S
    return WordTable(jnp.asarray(next_SxV), jnp.asarray(found_SxV), jnp.asarray(ends_S))


def count_listed(table: WordTable, ids_BxT: jax.Array, mask_BxT: jax.Array) -> jax.Array:
    """How many words of each text are on the list, (B,) float32.

    Args:
      ids_BxT: right-padded.
      mask_BxT: True on real tokens.
    """

    def read(state_B: jax.Array, token: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        ids_B, real_B = token
        after_B = jnp.where(real_B, table.next_SxV[state_B, ids_B].astype(jnp.int32), state_B)
        return after_B, jnp.where(real_B, table.found_SxV[state_B, ids_B], 0)

    start_B = jnp.full(ids_BxT.shape[0], _BETWEEN, jnp.int32)
    end_B, found_TxB = jax.lax.scan(read, start_B, (ids_BxT.T, mask_BxT.T))
    return jnp.sum(found_TxB, axis=0, dtype=jnp.float32) + table.ends_S[end_B].astype(jnp.float32)


def _byte_automaton(words: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """(the state after each byte in each state, whether a state is a whole word)."""
    prefixes: dict[bytes, int] = {}
    whole = set()
    for word in words:
        spelled = word.lower().encode()
        if not spelled or set(spelled) - set(_LETTERS):
            raise UserError(f"{word!r} cannot be on a word list: give single words of a-z and 0-9")
        whole.add(spelled)
        for length in range(1, len(spelled) + 1):
            prefixes.setdefault(spelled[:length], len(prefixes) + 2)
    step_256xS = np.full((256, len(prefixes) + 2), _OTHER, np.int64)
    for byte in range(256):
        if (byte < 0x80 and bytes([byte]).lower() not in _LETTERS) or byte in _SYMBOLS:
            step_256xS[byte] = _BETWEEN
        elif byte < 0x80:
            letter = bytes([byte]).lower()
            step_256xS[byte, _BETWEEN] = prefixes.get(letter, _OTHER)
            for prefix, state in prefixes.items():
                step_256xS[byte, state] = prefixes.get(prefix + letter, _OTHER)
        elif byte < 0xC0:  # the rest of a character: after a symbol it is still no word
            step_256xS[byte, _BETWEEN] = _BETWEEN
    ends_S = np.zeros(len(prefixes) + 2, np.int8)
    ends_S[[prefixes[word] for word in whole]] = 1
    return step_256xS, ends_S
