"""Other models' tokenizers with the face of `CaptionTokenizer`."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmrlhf_jax.data.text_processor import TextProcessor, load_tokenizer
from mmrlhf_jax.data.tokens import PAD_ID, CaptionTokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.processes import by_first

_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


class ForeignTokenizer(CaptionTokenizer):
    """One of transformers' tokenizers, used like this package's own: its padding becomes PAD_ID.

    Whatever a vocabulary has under that number is padding here; in CLIP's it is half of an exclamation mark.
    """

    def __init__(self, tokenizer: Any, folder: Path):
        self.tokenizer: Any = tokenizer
        self.folder = folder

    @classmethod
    def load(cls, folder: str | Path) -> "ForeignTokenizer":
        """The tokenizer whose files lie in a folder. Raises UserError where there is none."""
        return cls(load_tokenizer(folder), Path(folder))

    @by_first
    def save(self, folder: str | Path) -> None:
        """Copies its files into a folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, Path(folder) / name)

    def encode_batch(self, texts: Sequence[str], max_length: int) -> np.ndarray:
        """Token ids (B, T) int32 with the special tokens that the model expects, padded with PAD_ID."""
        ids_BxT, mask_BxT = TextProcessor(self.tokenizer, max_length=max_length)(texts)
        return np.where(mask_BxT, ids_BxT, PAD_ID).astype(np.int32)

    def decode_batch(self, ids_BxT: np.ndarray) -> list[str]:
        """The texts, without special tokens."""
        rows = [[i for i in ids if i != PAD_ID] for ids in np.asarray(ids_BxT).tolist()]
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True)

    def word_starts(self) -> np.ndarray:
        """Raises UserError: where words begin is not a matter of single tokens in every vocabulary."""
        raise UserError(
            "augment.word_dropout needs this package's own tokenizer: leave it 0 with this backbone"
        )

    @property
    def pad_id(self) -> int:
        """What the model itself was padded with in training."""
        return int(self.tokenizer.pad_token_id or 0)

    @property
    def vocab_size(self) -> int:
        """The number of tokens, special ones included."""
        return len(self.tokenizer)
