"""Text to token ids and back: byte-level BPE over whole words, small enough to train in a second.

Sources: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units" (BPE); Radford
et al. 2019, GPT-2 (BPE over bytes, so that no text is out of vocabulary). `tokenizers` does the merging.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from mmrlhf_jax.errors import UserError
from mmrlhf_jax.processes import by_first

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
SPECIAL = (PAD, BOS, EOS)
PAD_ID, BEGIN_ID, END_ID = range(3)

# A word with the space before it, hyphens and apostrophes included ("medium-dark", "man's"); signs; spaces.
WORD = r" ?[\p{L}\p{N}\p{M}’'-]+| ?[^\s\p{L}\p{N}]+|\s+"  # noqa: RUF001


class CaptionTokenizer:
    """Byte-level BPE with `<pad>` = 0, `<bos>` = 1, `<eos>` = 2.

    A space is put before every text, so that a word is the same tokens wherever it stands; decoding takes it
    off. Any text survives encoding and decoding. Special tokens written in a text are plain characters, never
    tokens.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer):
        for index, token in enumerate(SPECIAL):
            if tokenizer.token_to_id(token) != index:
                raise UserError(
                    f"this tokenizer was not made by CaptionTokenizer: {token} must have id {index}"
                )
        # Text is data: "<eos>" in a caption must not end it.
        tokenizer.encode_special_tokens = True
        self.tokenizer = tokenizer

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 2048) -> "CaptionTokenizer":
        """Learns the merges from `texts`; the same texts in the same order give the same tokenizer.

        Raises:
          UserError: there are no texts, or `vocab_size` has no room for 256 bytes and 3 special tokens.
        """
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        smallest = len(alphabet) + len(SPECIAL)
        if vocab_size < smallest:
            raise UserError(f"vocab_size is {vocab_size}; the bytes and special tokens alone need {smallest}")
        texts = list(texts)
        if not texts:
            raise UserError("there are no texts to train a tokenizer on")
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Prepend(" ")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(WORD), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", left=1, right=0)])
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(alphabet),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer, length=len(texts))
        return cls(tokenizer)

    @classmethod
    def load(cls, folder: str | Path) -> "CaptionTokenizer":
        """The tokenizer that `save` wrote.

        Raises:
          UserError: the folder has no readable tokenizer.json, or one that another kind of tokenizer wrote.
        """
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise UserError(f"{path}: there is no such file; give a folder that CaptionTokenizer.save wrote")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path}: damaged ({error}); save the tokenizer again") from error
        if not isinstance(content, dict) or content.get("model", {}).get("type") != "BPE":
            raise UserError(f"{path}: not a BPE tokenizer; give a folder that CaptionTokenizer.save wrote")
        try:
            return cls(tokenizers.Tokenizer.from_str(json.dumps(content)))
        except Exception as error:  # the library has no kind of its own
            raise UserError(f"{path}: damaged ({error}); save the tokenizer again") from error

    @by_first
    def save(self, folder: str | Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json, which transformers' AutoTokenizer loads too."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": PAD,
            "bos_token": BOS,
            "eos_token": EOS,
            "padding_side": "right",
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
        }
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def encode_batch(self, texts: Sequence[str], max_length: int) -> np.ndarray:
        """Token ids of each text, without `<bos>`, ended by `<eos>`, padded on the right.

        A text that is too long loses its end, never its `<eos>`.

        Returns:
          ids_BxT: int32, T = max_length.

        Raises:
          UserError: `max_length` is less than 1.
        """
        if max_length < 1:
            raise UserError(f"max_length is {max_length}; give at least 1, which holds {EOS}")
        ids_BxT = np.full((len(texts), max_length), self.pad_id, np.int32)
        for row, encoding in zip(ids_BxT, self._encode(texts), strict=True):
            ids = [*encoding[: max_length - 1], self.eos_id]
            row[: len(ids)] = ids
        return ids_BxT

    def count_tokens(self, texts: Sequence[str]) -> np.ndarray:
        """The number of tokens of each text with its `<eos>`, int32: the `max_length` that cuts nothing."""
        return np.array([len(ids) + 1 for ids in self._encode(texts)], np.int32)

    def decode_batch(self, ids_BxT: np.ndarray) -> list[str]:
        """The text of each row up to its first `<eos>`.

        `<pad>` and `<bos>` are skipped, broken UTF-8 becomes U+FFFD.

        Raises:
          UserError: an id outside of the vocabulary.
        """
        ids_BxT = np.asarray(ids_BxT)
        if ids_BxT.size and not 0 <= ids_BxT.min() <= ids_BxT.max() < self.vocab_size:
            low, high = ids_BxT.min(), ids_BxT.max()
            raise UserError(
                f"token ids run from {low} to {high}; this vocabulary has {self.vocab_size} tokens"
            )
        rows = []
        for ids in ids_BxT.tolist():
            end = ids.index(self.eos_id) if self.eos_id in ids else len(ids)
            rows.append([i for i in ids[:end] if i not in (self.pad_id, self.bos_id)])
        return self.tokenizer.decode_batch(rows, skip_special_tokens=False)

    def word_starts(self) -> np.ndarray:
        """True for the tokens that begin a word, those with a space before it; (V,) bool."""
        pieces = [self.tokenizer.id_to_token(i) for i in range(self.vocab_size)]
        return np.array([piece is not None and piece.startswith("\u0120") for piece in pieces])

    def token_bytes(self) -> list[bytes]:
        """The bytes that each token stands for, by id; none for the special tokens.

        The first token of a text begins with the space that encoding puts there.
        """
        byte_of = {character: byte for byte, character in enumerate(_byte_characters())}
        spelled = sorted((i, token) for token, i in self.tokenizer.get_vocab().items())
        return [b"" if token in SPECIAL else bytes(byte_of[c] for c in token) for _, token in spelled]

    @property
    def vocab_size(self) -> int:
        """The number of tokens, special ones included."""
        return self.tokenizer.get_vocab_size()

    @property
    def pad_id(self) -> int:
        return SPECIAL.index(PAD)

    @property
    def bos_id(self) -> int:
        return SPECIAL.index(BOS)

    @property
    def eos_id(self) -> int:
        return SPECIAL.index(EOS)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        # JSON can hold half a surrogate pair, which no UTF-8 can; it becomes U+FFFD.
        texts = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


def _byte_characters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (Radford et al. 2019).

    What prints as itself in Latin-1 keeps its place; the others follow from 256 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 256 + others.index(byte)) for byte in range(256)]
