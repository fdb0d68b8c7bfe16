"""The texts of records: strings, or conversations as chat datasets write them."""

from typing import Any

from mmrlhf_jax.errors import UserError


def parse_text(value: Any, where: str, *, prompt: bool = False) -> str:
    """A string as it is; a conversation as the texts of its messages, one a line.

    Args:
      value: a string, or a list of {"role", "content"} whose content is a string or a list of parts, each
        {"type": "text", "text": ...} or {"type": "image"}.
      where: file, row and column, for errors.
      prompt: whether messages of others than the assistant belong here.

    Raises:
      UserError: anything else, and half a surrogate pair.
    """
    if isinstance(value, list) and value and all(isinstance(message, dict) for message in value):
        if not prompt and any(message.get("role") != "assistant" for message in value):
            raise UserError(f"{where}: only the assistant's messages belong here; move the others to prompt")
        value = "\n".join(_parse_content(message.get("content"), where) for message in value)
    if not isinstance(value, str):
        raise UserError(f"{where}: {repr(value)[:60]} is no text; give a string, or a list of messages")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise UserError(f"{where}: half a surrogate pair, which is no character; write the whole one")
    return value


def count_pictures(value: Any) -> int:
    """How many places for pictures a conversation has; 0 for plain text."""
    contents = [message.get("content") for message in value] if isinstance(value, list) else []
    parts = [part for content in contents if isinstance(content, list) for part in content]
    return sum(part.get("type") == "image" for part in parts)


def _parse_content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else [content]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind != "image":
            raise UserError(
                f"{where}: a message's content holds {repr(part)[:60]}; only text and image are known"
            )
    return "".join(texts)
