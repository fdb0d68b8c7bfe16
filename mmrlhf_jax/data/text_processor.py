"""Text as a pretrained CLIP or SigLIP wants it: transformers' own tokenizers, cut and padded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmrlhf_jax.errors import UserError


def load_tokenizer(path: str | Path) -> Any:
    """transformers' tokenizer whose files lie in a folder.

    Raises:
      UserError: there is none, it is damaged, or it needs sentencepiece, which is not installed.
    """
    import transformers

    folder = Path(path)
    if not any((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json")):
        raise UserError(f"{folder} holds no tokenizer: give the folder of a whole model")
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except ImportError:
        raise UserError(f"the tokenizer of {folder} needs sentencepiece: pip install sentencepiece") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the tokenizer of {folder} cannot be read ({reason}): download it again") from None


class TextProcessor:
    """Captions to token ids.

    A caption that is too long is cut, its end token kept. Special tokens written inside a caption are plain
    text (`split_special_tokens`): "<|endoftext|>" from a user cannot end it.
    """

    def __init__(self, tokenizer: Any, *, max_length: int, masked: bool = True):
        """
        Args:
          tokenizer: one of transformers'; none of them needs torch.
          max_length: tokens of every row, begin and end token included (CLIP 77, SigLIP 64).
          masked: padding is masked (CLIP); SigLIP was trained to read its padding.
        """
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.masked = masked

    @classmethod
    def from_folder(cls, path: str | Path, *, max_length: int, masked: bool = True) -> "TextProcessor":
        """The tokenizer whose files lie in a folder; `max_length` is `config.text.max_length` of its model.

        Raises:
          UserError: there is no tokenizer, it is damaged, or it needs sentencepiece, which is not installed.
        """
        return cls(load_tokenizer(path), max_length=max_length, masked=masked)

    def __call__(self, texts: str | Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids (B, max_length) int32 and the mask (B, max_length) bool of real tokens, right-padded.

        Raises:
          UserError: there is no text.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts or not all(isinstance(text, str) for text in texts):
            raise UserError("there are no texts to tokenize: give a string or several")
        read = self.tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=self.max_length,
            padding_side="right",
            split_special_tokens=True,
            return_attention_mask=True,
            return_tensors="np",
        )
        mask_BxT = (
            read["attention_mask"].astype(bool) if self.masked else np.ones(read["input_ids"].shape, bool)
        )
        return read["input_ids"].astype(np.int32), mask_BxT
