"""GGUF files of the Llama family, as llama.cpp writes them; the `gguf` package reads and dequantises.

A file holds everything: sizes, weights, mostly quantised to a few bits, and the tokenizer. Its documentation
is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np

from mmrlhf_jax.architecture import DecoderConfig, RopeScaling
from mmrlhf_jax.errors import UserError
from mmrlhf_jax.hub.gguf_tokenizer import bpe_tokenizer
from mmrlhf_jax.hub.names import Rule, Table, linear, norm, same, transposed
from mmrlhf_jax.hub.tensors import Shardings, Tensor, assemble
from mmrlhf_jax.modules import Params

_ROPE_FACTORS = "rope_freqs.weight"


class GGUFFile:
    """An open GGUF file.

    Raises:
      UserError: the gguf package is missing, the file is no GGUF file, damaged, or one of several parts, or
        its model does not belong to the Llama family.
    """

    def __init__(self, path: str | Path):
        try:
            import gguf
        except ImportError:
            raise UserError(f"{path}: to read GGUF files, install mmrlhf-jax[gguf] (gguf)") from None
        self.path = Path(path)
        try:
            self._reader = gguf.GGUFReader(self.path)
        except (ValueError, IndexError, KeyError, OverflowError) as error:
            raise UserError(
                f"{path} is no GGUF file, or damaged ({error}): copy or download it anew"
            ) from None
        self._dequantize = gguf.dequantize
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.family = self.value("general.architecture")
        if self.family not in ("llama", "qwen2"):
            raise UserError(
                f"{path} holds a model of kind {self.family!r}: those that load are llama and qwen2"
            )
        if self.value("split.count", 1) > 1:
            raise UserError(f"{path} is one part of several: merge them with llama-gguf-split --merge")

    def value(self, key: str, default: Any = None) -> Any:
        """The metadata under `key`."""
        field = self._reader.get_field(key)
        return default if field is None else field.contents()

    @functools.cached_property
    def config(self) -> DecoderConfig:
        """The architecture that the metadata describe."""
        embedding = self._tensors.get("token_embd.weight")
        if embedding is None:
            raise UserError(f"{self.path} lacks tensor token_embd.weight: download it anew")
        heads = self._size("attention.head_count")
        return DecoderConfig(
            vocab_size=int(embedding.shape[1]),
            width=self._size("embedding_length"),
            layers=self._size("block_count"),
            heads=heads,
            kv_heads=self._size("attention.head_count_kv", heads),
            mlp_width=self._size("feed_forward_length"),
            rope_theta=_decimal(self._size("rope.freq_base", 10_000.0)),
            norm_eps=_decimal(self._size("attention.layer_norm_rms_epsilon")),
            head_dim=self.value(f"{self.family}.attention.key_length"),
            rope_scaling=self._rope_scaling(),
            qkv_bias=self.family == "qwen2",
            tied="output.weight" not in self._tensors,
            max_positions=self.value(f"{self.family}.context_length"),
            sliding_window=self.value(f"{self.family}.attention.sliding_window"),
        )

    def params(self, abstract: Params, *, dtype: Any = None, sharding: Shardings | None = None) -> Params:
        """The parameters in the structure of `abstract`, float32 unless `dtype` says otherwise.

        Raises:
          UserError: as `read_params` does.
        """
        tensors = {name: self._tensor(tensor) for name, tensor in self._tensors.items()}
        return assemble(
            tensors,
            _table(self.config, permuted=self.family == "llama"),
            abstract,
            file=self.path,
            dtype=dtype,
            sharding=sharding,
            ignore=(_ROPE_FACTORS,),
        )

    def tokenizer(self) -> Any:
        """The tokenizer in the file, a transformers.PreTrainedTokenizerFast with the chat template.

        Raises:
          UserError: the file has none, or one of a kind that is not rebuilt here.
        """
        try:
            return bpe_tokenizer(self.value)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None

    def _size(self, key: str, default: Any = None) -> Any:
        value = self.value(f"{self.family}.{key}", default)
        if value is None:
            raise UserError(f"{self.path} lacks {self.family}.{key}: download it anew")
        if isinstance(value, list):
            raise UserError(f"{self.path}: {self.family}.{key} differs by layer, which is not supported")
        return value

    def _rope_scaling(self) -> RopeScaling:
        prefix = f"{self.family}.rope.scaling"
        kind = self.value(f"{prefix}.type", "none")
        if _ROPE_FACTORS in self._tensors:
            return self._llama3_scaling()
        if kind == "none":
            return RopeScaling()
        if kind not in ("linear", "yarn"):
            raise UserError(f"{self.path}: {prefix}.type is {kind!r}: those that load are linear and yarn")
        original = self.value(f"{prefix}.original_context_length", RopeScaling().original_positions)
        return RopeScaling(kind, _decimal(self._size("rope.scaling.factor")), original)

    def _llama3_scaling(self) -> RopeScaling:
        """Llama 3's published setting; llama.cpp keeps only the divisors of the frequencies that it makes."""
        divisor_F = self._tensor(self._tensors[_ROPE_FACTORS]).read()
        scaling = RopeScaling("llama3", _decimal(divisor_F.max()))
        turns_F = scaling.original_positions / (2 * np.pi) * self._plain_frequencies(divisor_F.size)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        slowed_F = np.clip((high - turns_F) / (high - low), 0, 1)
        if not np.allclose(1 / divisor_F, 1 - slowed_F + slowed_F / scaling.factor, rtol=1e-4):
            raise UserError(f"{self.path}: {_ROPE_FACTORS} is not the scaling that Llama 3 has")
        return scaling

    def _plain_frequencies(self, half: int) -> np.ndarray:
        return _decimal(self._size("rope.freq_base", 10_000.0)) ** (-np.arange(half) / half)

    def _tensor(self, tensor: Any) -> Tensor:
        shape = tuple(int(size) for size in reversed(tensor.shape))
        return Tensor(
            self.path,
            shape,
            lambda: np.asarray(self._dequantize(tensor.data, tensor.tensor_type)).reshape(shape),
        )


def _decimal(value: float) -> float:
    """The number that was meant by a float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _table(config: DecoderConfig, *, permuted: bool) -> Table:
    """Names of our Decoder and of llama.cpp's tensors."""
    rules = {
        **same("embedding.embedding", "token_embd.weight"),
        **norm("norm", "output_norm", bias=False),
    }
    if not config.tied:
        rules |= transposed("head.kernel", "output.weight")
    for i in range(config.layers):
        ours, theirs = f"blocks.{i}", f"blk.{i}"
        query = linear(f"{ours}.query", f"{theirs}.attn_q", bias=config.qkv_bias)
        key = linear(f"{ours}.key", f"{theirs}.attn_k", bias=config.qkv_bias)
        if permuted:
            query = {name: _halves_together(rule, config.heads) for name, rule in query.items()}
            key = {name: _halves_together(rule, config.kv_heads) for name, rule in key.items()}
        rules |= {
            **norm(f"{ours}.norm1", f"{theirs}.attn_norm", bias=False),
            **query,
            **key,
            **linear(f"{ours}.value", f"{theirs}.attn_v", bias=config.qkv_bias),
            **linear(f"{ours}.out", f"{theirs}.attn_output", bias=False),
            **norm(f"{ours}.norm2", f"{theirs}.ffn_norm", bias=False),
            **linear(f"{ours}.gate", f"{theirs}.ffn_gate", bias=False),
            **linear(f"{ours}.up", f"{theirs}.ffn_up", bias=False),
            **linear(f"{ours}.down", f"{theirs}.ffn_down", bias=False),
        }
    return rules


def _halves_together(rule: Rule, heads: int) -> Rule:
    """`rule` for rows that lie pair by pair, as llama.cpp rotates them, instead of half by half."""

    def join(weight_OxI: np.ndarray) -> np.ndarray:
        pairs = weight_OxI.reshape(heads, -1, 2, weight_OxI.shape[-1])
        return rule.join(pairs.swapaxes(1, 2).reshape(weight_OxI.shape))

    def split(kernel_IxO: np.ndarray) -> tuple[np.ndarray, ...]:
        (weight_OxI,) = rule.split(kernel_IxO)
        halves = weight_OxI.reshape(heads, 2, -1, weight_OxI.shape[-1])
        return (halves.swapaxes(1, 2).reshape(weight_OxI.shape),)

    return Rule(rule.sources, join, split)
