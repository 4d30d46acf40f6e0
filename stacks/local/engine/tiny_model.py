"""Make a tiny Llama on the spot: real weights, real tokenizer, real chat template, a quarter of a megabyte.

Seeded and written with the standard library alone, so that it takes a moment, needs no download, and gives the same
bytes everywhere. Its vocabulary is the 256 byte symbols and five special ones: one token is one byte, and any text
round-trips. The text that it answers is gibberish by design; only printable ASCII and, now and then, the end of
the turn are ever sampled.
"""

from __future__ import annotations

import json
import math
import random
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

SPECIALS: Final = ("<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>")
PAD_ID, BOS_ID, EOS_ID = 0, 1, 2

CHAT_TEMPLATE: Final = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] or '' }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

VOCABULARY: Final = 320
"""261 symbols, padded to a multiple of 64, which kernels like."""

PRINTABLE: Final = range(0x20, 0x7F)

SPREAD: Final = 0.3
"""Standard deviation of the weights: far above a trained model's, so that different prompts answer differently."""

HEAD_GAIN: Final = 1.5
"""Factor on the output rows that may be sampled: it sharpens the distribution, so greedy answers are stable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyShape:
    """The model's dimensions; as given it has 115,008 parameters."""

    hidden: int = 64
    layers: int = 2
    heads: int = 2
    kv_heads: int = 1
    context: int = 4096

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


def make_tiny_model(directory: Path, *, seed: int = 0, shape: TinyShape | None = None, embeds: bool = False) -> Path:
    """Write the model into `directory` and return it.

    `embeds` adds the pool's `mrgc.json` that makes the worker serve embeddings from it. Files that are there are
    replaced; the weights come last, so a directory with weights is whole.
    """
    shape = shape or TinyShape()
    directory.mkdir(parents=True, exist_ok=True)
    symbols = byte_symbols()
    vocabulary = {text: number for number, text in enumerate((*SPECIALS, *sorted(symbols.values())))}
    _write_json(directory / "config.json", _config(shape))
    _write_json(directory / "generation_config.json", {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID})
    _write_json(directory / "tokenizer.json", _tokenizer(vocabulary))
    _write_json(directory / "tokenizer_config.json", _tokenizer_config(shape))
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    if embeds:
        _write_json(directory / "mrgc.json", {"runner": "pooling"})
    sampled = {vocabulary[symbols[byte]] for byte in PRINTABLE} | {EOS_ID}
    partial = directory / "model.safetensors.partial"
    partial.write_bytes(_weights(shape, sampled, random.Random(seed)))  # noqa: S311 - weights, not secrets
    partial.replace(directory / "model.safetensors")
    return directory


def byte_symbols() -> dict[int, str]:
    """The printable character that stands for each byte in a byte-level tokenizer (GPT-2's table)."""
    keep = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in keep]
    return {byte: chr(byte) for byte in keep} | {byte: chr(256 + place) for place, byte in enumerate(rest)}


def _config(shape: TinyShape) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": VOCABULARY,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.hidden * 2,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
    }


def _tokenizer(vocabulary: dict[str, int]) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": number, "content": text} | flags for number, text in enumerate(SPECIALS)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model: dict[str, Any] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocabulary,
        "merges": [],
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": model,
    }


def _tokenizer_config(shape: TinyShape) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIALS[BOS_ID],
        "eos_token": SPECIALS[EOS_ID],
        "pad_token": SPECIALS[PAD_ID],
        "extra_special_tokens": list(SPECIALS[3:]),
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.context,
    }


def _weights(shape: TinyShape, sampled: set[int], chance: random.Random) -> bytes:
    """The safetensors file: u64 length of a JSON header, the header, then every tensor's bfloat16 values."""
    wide, inner = shape.hidden, shape.hidden * 2
    attention, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    tensors: dict[str, tuple[list[int], bytes]] = {}

    def normal(name: str, rows: int, columns: int) -> None:
        values = (chance.gauss(0.0, SPREAD) for _ in range(rows * columns))
        tensors[name] = ([rows, columns], _bfloat16(values))

    def ones(name: str) -> None:
        tensors[name] = ([wide], _bfloat16([1.0] * wide))

    normal("model.embed_tokens.weight", VOCABULARY, wide)
    for layer in range(shape.layers):
        at = f"model.layers.{layer}"
        ones(f"{at}.input_layernorm.weight")
        normal(f"{at}.self_attn.q_proj.weight", attention, wide)
        normal(f"{at}.self_attn.k_proj.weight", kv, wide)
        normal(f"{at}.self_attn.v_proj.weight", kv, wide)
        normal(f"{at}.self_attn.o_proj.weight", wide, attention)
        ones(f"{at}.post_attention_layernorm.weight")
        normal(f"{at}.mlp.gate_proj.weight", inner, wide)
        normal(f"{at}.mlp.up_proj.weight", inner, wide)
        normal(f"{at}.mlp.down_proj.weight", wide, inner)
    ones("model.norm.weight")
    head = (
        HEAD_GAIN * chance.gauss(0.0, SPREAD) if row in sampled else 0.0
        for row in range(VOCABULARY)
        for _ in range(wide)
    )
    tensors["lm_head.weight"] = ([VOCABULARY, wide], _bfloat16(head))

    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dimensions, data) in tensors.items():
        header[name] = {"dtype": "BF16", "shape": dimensions, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, data in tensors.values())


def _bfloat16(values: Iterable[float]) -> bytes:
    """Little-endian bfloat16: the upper half of a float32, rounded to nearest."""
    out = bytearray()
    for value in values:
        (bits,) = struct.unpack("<I", struct.pack("<f", value))
        out += struct.pack("<H", min(bits + 0x8000, 0xFFFF_FFFF) >> 16)
    return bytes(out)


def parameters(shape: TinyShape) -> int:
    """How many parameters a model of this shape has."""
    inner, kv = shape.hidden * 2, shape.kv_heads * shape.head_dim
    layer = shape.hidden * (2 + 2 * shape.hidden + 2 * kv + 3 * inner)
    return 2 * VOCABULARY * shape.hidden + shape.layers * layer + shape.hidden


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main(
    directory: Path,
    *,
    seed: Annotated[int, typer.Option(help="Another seed, another model.")] = 0,
    embeds: Annotated[bool, typer.Option("--embeds", help="Make a pool that serves embeddings.")] = False,
) -> None:
    """Write a tiny model into DIRECTORY."""
    make_tiny_model(directory, seed=seed, embeds=embeds)
    size = sum(file.stat().st_size for file in directory.iterdir())
    typer.echo(f"{directory}: {parameters(TinyShape()):,} parameters, {math.ceil(size / 1000)} kB")


if __name__ == "__main__":
    typer.run(main)
