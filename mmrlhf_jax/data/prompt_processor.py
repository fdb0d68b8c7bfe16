"""Pictures with questions, as a vision-language model wants them: pixels and left-padded token ids."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmrlhf_jax.architecture import PolicyConfig
from mmrlhf_jax.data.processor import Picture, PictureProcessor
from mmrlhf_jax.data.text_processor import load_tokenizer
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.files import read_json
from mmrlhf_jax.types import Prompts


class PictureQuestions(NamedTuple):
    """What a policy reads before it answers; every row is one picture and one prompt."""

    pixels_BxHxWx3: np.ndarray  # float32, normalised
    prompts: Prompts  # of numpy arrays


class PromptProcessor:
    """Chats about one picture each, as transformers' LlavaProcessor reads them.

    Each picture's place in a text, e.g. "<image>", becomes as many places as the model makes tokens of a
    picture. Special tokens written inside a question are refused: "<image>" from a user is no picture.
    """

    def __init__(
        self, pictures: PictureProcessor, tokenizer: Any, config: PolicyConfig, *, chat_template: str | None
    ):
        """
        Args:
          tokenizer: one of transformers'; none of them needs torch.
          config: of the policy that reads the prompts.
          chat_template: Jinja; None: there are no chats, only texts.

        Raises:
          UserError: `config` names no image_token_id.
        """
        if config.image_token_id is None:
            raise UserError("image_token_id is None: this policy's pictures stand before the prompt")
        self.pictures = pictures
        self.tokenizer = tokenizer
        self.vocab_size = config.decoder.vocab_size
        self.image_token_id = config.image_token_id
        self.image_token = tokenizer.convert_ids_to_tokens(config.image_token_id)
        self.places = config.picture_tokens
        self.chat_template = chat_template
        self.pad_id = tokenizer.pad_token_id or 0
        self.end_id = tokenizer.eos_token_id

    @classmethod
    def from_folder(cls, path: str | Path, config: PolicyConfig) -> "PromptProcessor":
        """The processor and tokenizer whose files lie in a folder; `config` is that of its model.

        Raises:
          UserError: a file is missing or damaged.
        """
        tokenizer = load_tokenizer(path)
        template = tokenizer.chat_template or _template_of_processor(Path(path))
        return cls(PictureProcessor.from_folder(path), tokenizer, config, chat_template=template)

    def chat(
        self, pictures: Sequence[Picture], questions: Sequence[str], *, system: str | None = None
    ) -> PictureQuestions:
        """One turn of a user about each picture, and the beginning of the assistant's.

        Raises:
          UserError: a question holds a special token; there is no chat template; jinja2 is missing; or as
            `__call__`.
        """
        if self.chat_template is None:
            raise UserError("this model has no chat template: write whole prompts and call the processor")
        return self(pictures, [self._turn(question, i, system) for i, question in enumerate(questions)])

    def __call__(self, pictures: Sequence[Picture], texts: Sequence[str]) -> PictureQuestions:
        """Whole prompts, each with one place for its picture; special tokens in them are special.

        Raises:
          UserError: not as many texts as pictures, a text without a place or with several, or a picture that
            cannot be read.
        """
        if len(pictures) != len(texts):
            raise UserError(
                f"{len(pictures)} pictures and {len(texts)} prompts: give one picture for each prompt"
            )
        expanded = [text.replace(self.image_token, self.image_token * self.places) for text in texts]
        rows = self.tokenizer(expanded, padding=False)["input_ids"] if texts else []
        for i, row in enumerate(rows):
            found = row.count(self.image_token_id)
            if found != self.places:
                raise UserError(
                    f"prompt {i} has {found} image tokens and its picture {self.places}: write "
                    f"{self.image_token} once, where the picture stands"
                )
        pixels_BxHxWx3 = self.pictures(list(pictures))
        length = max(map(len, rows))
        ids_BxL = np.full((len(rows), length), self.pad_id, np.int32)
        mask_BxL = np.zeros((len(rows), length), bool)
        for i, row in enumerate(rows):
            ids_BxL[i, length - len(row) :] = row
            mask_BxL[i, length - len(row) :] = True
        return PictureQuestions(pixels_BxHxWx3, Prompts(ids_BxL, mask_BxL))  # type: ignore[arg-type]

    @property
    def forbidden_V(self) -> np.ndarray:
        """True for what a policy must never write: places of pictures, padding, begin, ids without a text."""
        never = {self.image_token_id, self.tokenizer.pad_token_id, self.tokenizer.bos_token_id} - {
            self.end_id
        }
        ids_V = np.arange(self.vocab_size)
        return np.isin(ids_V, [i for i in never if i is not None]) | (ids_V >= len(self.tokenizer))

    def decode(self, ids_BxT: np.ndarray) -> list[str]:
        """The text of each row, without special tokens."""
        return self.tokenizer.batch_decode(np.asarray(ids_BxT), skip_special_tokens=True)

    def _turn(self, question: str, index: int, system: str | None) -> str:
        for token in {*self.tokenizer.all_special_tokens, self.image_token}:
            if token in question:
                raise UserError(f"question {index} holds the special token {token}: take it out")
        parts = [{"type": "image"}, {"type": "text", "text": question}]
        messages: list[dict[str, Any]] = [{"role": "user", "content": parts}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
        try:
            return self.tokenizer.apply_chat_template(
                messages, chat_template=self.chat_template, tokenize=False, add_generation_prompt=True
            )
        except ImportError:
            raise UserError("chat templates need jinja2: pip install jinja2") from None


def _template_of_processor(folder: Path) -> str | None:
    """The chat template where transformers 4 kept it: in a file of its own, or in the processor's."""
    for name in ("chat_template.json", "processor_config.json"):
        file = folder / name
        if not file.is_file():
            continue
        values = read_json(file)
        if isinstance(values, dict) and isinstance(values.get("chat_template"), str):
            return values["chat_template"]
    return None
