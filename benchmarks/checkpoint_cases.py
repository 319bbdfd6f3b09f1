"""Checkpoints to be judged: 30 that are broken in known ways, and 30 that are sound.

All are of real models, small ones, saved by transformers and PEFT on the spot; what breaks them is done to the
saved files, as it would be by a full disk, a wrong merge or a diverged step.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Broken:
    """A checkpoint with one fault."""

    name: str
    finding: str
    where: str
    """Part of the tensor's or file's name."""
    make: Callable[[Path], tuple[Path, Path | None]]
    """Writes it below a folder; returns it and the checkpoint before it."""


@dataclass(frozen=True)
class Sound:
    """A checkpoint with none."""

    name: str
    make: Callable[[Path], tuple[Path, Path | None]]


# --- models


def llama(layers: int = 4, tied: bool = False) -> Any:
    """Untied as larger Llamas are, or tied as the smaller ones."""
    config = LlamaConfig(
        vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def gpt2() -> Any:
    """With biases, and matrices stored the other way round."""
    return GPT2LMHeadModel(GPT2Config(vocab_size=128, n_positions=64, n_embd=32, n_layer=4, n_head=4))


def qwen() -> Any:
    """With biases of queries, keys and values alone."""
    config = Qwen2Config(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return Qwen2ForCausalLM(config)


MODELS: Final[dict[str, Callable[[], Any]]] = {"llama": llama, "gpt2": gpt2, "qwen": qwen}
DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def trained(model: Any, steps: int, rate: float = 1e-3) -> Any:
    """Really trained, on random tokens."""
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=rate)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        tokens = torch.randint(0, 128, (4, 16), generator=generator)
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@cache
def states(kind: str) -> tuple[Tensors, Tensors]:
    """Weights of a model before and after some steps, in single precision; computed once."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = MODELS[kind]()
    trained(model, 20)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained(model, 3, 1e-4)
    return before, {name: value.clone() for name, value in model.state_dict().items()}


def save(kind: str, state: Tensors, folder: Path, dtype: str = "fp32", shard: str = "5GB") -> Path:
    """As ``save_pretrained`` does."""
    model = MODELS[kind]()
    model.load_state_dict(state)
    model.to(DTYPES[dtype]).save_pretrained(folder, max_shard_size=shard)
    return folder


def pair(kind: str, dtype: str = "fp32", shard: str = "5GB") -> Callable[[Path], tuple[Path, Path]]:
    """Two checkpoints of one run."""

    def make(root: Path) -> tuple[Path, Path]:
        before, after = states(kind)
        first = save(kind, before, root / "checkpoint-20", dtype, shard)
        return save(kind, after, root / "checkpoint-23", dtype, shard), first

    return make


def changed(
    kind: str, change: Callable[[Tensors], None], dtype: str = "fp32", compared: bool = False
) -> Callable[[Path], tuple[Path, Path | None]]:
    """A checkpoint of which some tensors were changed after saving."""

    def make(root: Path) -> tuple[Path, Path | None]:
        path, before = pair(kind, dtype)(root)
        file = path / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})
        return path, before if compared else None

    return make


def named(tensors: Tensors, part: str) -> str:
    """The tensor that a fault is about."""
    return next(name for name in tensors if part in name)


def scaled(part: str, factor: float) -> Callable[[Tensors], None]:
    """Multiplied."""

    def change(tensors: Tensors) -> None:
        tensors[named(tensors, part)].mul_(factor)

    return change


def filled(part: str, value: float, one: bool = True) -> Callable[[Tensors], None]:
    """One number, or all of them, are ``value``."""

    def change(tensors: Tensors) -> None:
        tensor = tensors[named(tensors, part)].flatten()
        (tensor[7:8] if one else tensor).fill_(value)

    return change


def noisy(part: str, size: float) -> Callable[[Tensors], None]:
    """Replaced by noise: ``size`` times the RMS that it has."""

    def change(tensors: Tensors) -> None:
        tensor = tensors[named(tensors, part)]
        rms = tensor.float().square().mean().sqrt()
        tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)) * rms * size)

    return change


def exchanged(one: str, other: str) -> Callable[[Tensors], None]:
    """Two layers in each other's place."""

    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if one in name]:
            twin = name.replace(one, other)
            tensors[name], tensors[twin] = tensors[twin].clone(), tensors[name].clone()

    return change


# --- files


def on_files(
    kind: str, change: Callable[[Path], None], shard: str = "20KB"
) -> Callable[[Path], tuple[Path, None]]:
    """A sharded checkpoint of which the files were changed."""

    def make(root: Path) -> tuple[Path, None]:
        path = save(kind, states(kind)[1], root / "checkpoint-23", "bf16", shard)
        change(path)
        return path, None

    return make


def shards(path: Path) -> list[Path]:
    """In order."""
    return sorted(path.glob("model-*.safetensors"))


def swap_shards(path: Path) -> None:
    """Renamed to each other."""
    first, second, *_ = shards(path)
    first.rename(path / "held")
    second.rename(first)
    (path / "held").rename(second)


def truncate(path: Path) -> None:
    """The disk was full."""
    file = shards(path)[0]
    file.write_bytes(file.read_bytes()[:-1000])


def truncate_in_header(path: Path) -> None:
    """... early."""
    file = shards(path)[1]
    file.write_bytes(file.read_bytes()[:100])


def remove(path: Path) -> None:
    """A shard was not copied."""
    shards(path)[-1].unlink()


def overwrite_header(path: Path) -> None:
    """A block of the disk was lost."""
    file = shards(path)[0]
    file.write_bytes(file.read_bytes()[:8] + bytes(512) + file.read_bytes()[520:])


def drop_tensor(path: Path) -> None:
    """A merge lost a tensor."""
    file = shards(path)[0]
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, file, metadata={"format": "pt"})


# --- adapters


def adapter(steps: int) -> Callable[[Path], tuple[Path, None]]:
    """A LoRA adapter, trained for so many steps, as PEFT saves it."""

    def make(root: Path) -> tuple[Path, None]:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(steps)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trained(get_peft_model(llama(), config), steps).save_pretrained(root / "adapter")
        return root / "adapter", None

    return make


def broken_adapter(change: Callable[[Tensors], None], steps: int = 3) -> Callable[[Path], tuple[Path, None]]:
    """A trained adapter of which tensors were changed; its training state tells of the steps."""

    def make(root: Path) -> tuple[Path, None]:
        path, _ = adapter(steps)(root)
        file = path / "adapter_model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})
        state = {"global_step": steps, "max_steps": 100, "log_history": []}
        (path / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
        return path, None

    return make


def all_zero(part: str) -> Callable[[Tensors], None]:
    """All tensors with this in their names."""

    def change(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            if part in name:
                tensor.zero_()

    return change


# --- more


def frozen_copy(kind: str) -> Callable[[Path], tuple[Path, Path]]:
    """The second checkpoint is the first."""

    def make(root: Path) -> tuple[Path, Path]:
        first = save(kind, states(kind)[0], root / "checkpoint-20")
        shutil.copytree(first, root / "checkpoint-23")
        return root / "checkpoint-23", first

    return make


def other_weights(root: Path) -> tuple[Path, Path]:
    """Initialised again, as by a resume that loaded nothing."""
    first = save("llama", states("llama")[1], root / "checkpoint-20")
    torch.manual_seed(99)
    return save("llama", llama().state_dict(), root / "checkpoint-23"), first


def torn_tie(root: Path) -> tuple[Path, None]:
    """Tied by the configuration; a merge stored an output layer of its own."""
    torch.manual_seed(0)
    path = root / "tied"
    trained(llama(tied=True), 3).save_pretrained(path)
    file = path / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 0.5
    save_file(tensors, file, metadata={"format": "pt"})
    return path, None


def optimizer_of(root: Path, change: Callable[[Any], None]) -> tuple[Path, None]:
    """A checkpoint with a real state of Adam, changed."""
    torch.manual_seed(0)
    model = llama(2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens = torch.randint(0, 128, (4, 16))
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    path = root / "checkpoint-1"
    model.save_pretrained(path)
    change(optimizer)
    torch.save(optimizer.state_dict(), path / "optimizer.pt")
    return path, None


def _nan_moment(optimizer: Any) -> None:
    next(iter(optimizer.state.values()))["exp_avg_sq"][0] = float("nan")


def _huge_rate(optimizer: Any) -> None:
    optimizer.param_groups[0]["lr"] = 3.0


def _nothing(_: Any) -> None:
    pass


BROKEN: Final = (
    Broken("NaN in a bf16 matrix", "non-finite", "layers.1.mlp.up_proj", changed("llama", filled("layers.1.mlp.up_proj", float("nan")), "bf16")),
    Broken("infinity in an fp32 matrix", "non-finite", "h.2.attn.c_attn.weight", changed("gpt2", filled("h.2.attn.c_attn.weight", float("inf")))),
    Broken("NaN in an fp16 gain", "non-finite", "layers.2.input_layernorm", changed("qwen", filled("layers.2.input_layernorm", float("nan")), "fp16")),
    Broken("NaN everywhere", "non-finite", "lm_head", changed("llama", filled("lm_head", float("nan"), one=False))),
    Broken("exploded 1000 times", "exploded-layer", "layers.2.mlp.down_proj", changed("llama", scaled("layers.2.mlp.down_proj", 1e3))),
    Broken("exploded 100 times, bf16", "exploded-layer", "layers.0.self_attn.o_proj", changed("llama", scaled("layers.0.self_attn.o_proj", 100.0), "bf16")),
    Broken("exploded 1e4 times", "exploded-layer", "h.1.mlp.c_fc.weight", changed("gpt2", scaled("h.1.mlp.c_fc.weight", 1e4))),
    Broken("exploded gain", "exploded-layer", "layers.1.post_attention", changed("qwen", scaled("layers.1.post_attention", 1e3))),
    Broken("grown 12 times", "swollen-layer", "layers.1.self_attn.q_proj.weight", changed("qwen", scaled("layers.1.self_attn.q_proj.weight", 12.0))),
    Broken("exploded embedding", "exploded-layer", "embed_tokens", changed("llama", scaled("embed_tokens", 1e5))),
    Broken("zeroed matrix", "dead-layer", "layers.3.mlp.gate_proj", changed("llama", filled("layers.3.mlp.gate_proj", 0.0, one=False))),
    Broken("zeroed matrix, minus zero", "dead-layer", "h.0.mlp.c_proj.weight", changed("gpt2", filled("h.0.mlp.c_proj.weight", -0.0, one=False))),
    Broken("zeroed embedding", "dead-layer", "wte", changed("gpt2", filled("wte", 0.0, one=False))),
    Broken("zeroed gain", "dead-layer", "layers.0.input_layernorm", changed("qwen", filled("layers.0.input_layernorm", 0.0, one=False))),
    Broken("vanished", "vanished-layer", "layers.1.mlp.up_proj", changed("llama", scaled("layers.1.mlp.up_proj", 1e-5))),
    Broken("shards exchanged", "misplaced-tensor", "", on_files("llama", swap_shards)),
    Broken("shards exchanged, GPT-2", "misplaced-tensor", "", on_files("gpt2", swap_shards)),
    Broken("truncated shard", "truncated-file", "model-00001", on_files("llama", truncate)),
    Broken("truncated in the header", "truncated-file", "model-00002", on_files("qwen", truncate_in_header)),
    Broken("missing shard", "missing-shard", "model-", on_files("gpt2", remove)),
    Broken("overwritten header", "unreadable-file", "model-00001", on_files("qwen", overwrite_header)),
    Broken("lost tensor", "missing-tensor", "", on_files("llama", drop_tensor)),
    Broken("noise of the same size", "replaced-tensor", "layers.2.self_attn.v_proj", changed("llama", noisy("layers.2.self_attn.v_proj", 1.0), "bf16", compared=True)),
    Broken("noise of 50 times the size", "exploded-layer", "h.3.attn.c_proj.weight", changed("gpt2", noisy("h.3.attn.c_proj.weight", 50.0))),
    Broken("layers exchanged", "replaced-tensor", "layers.1.", changed("llama", exchanged("layers.1.", "layers.3."), compared=True)),
    Broken("about to overflow fp16", "dtype-overflow", "layers.0.mlp.up_proj", changed("llama", filled("layers.0.mlp.up_proj", 6e4), "fp16")),
    Broken("frozen copy", "nothing-learned", "checkpoint-20", frozen_copy("llama")),
    Broken("other weights", "replaced-weights", "", other_weights),
    Broken("torn tie", "tied-weights-torn", "lm_head", torn_tie),
    Broken("adapter zero after training", "adapter-zero", "", broken_adapter(all_zero("lora_B"))),
    Broken("NaN in Adam's moments", "moments-non-finite", "exp_avg_sq", lambda root: optimizer_of(root, _nan_moment)),
    Broken("learning rate of 3", "learning-rate", "optimizer.pt", lambda root: optimizer_of(root, _huge_rate)),
)  # fmt: skip


# --- sound ones


def fresh(kind: str, dtype: str) -> Callable[[Path], tuple[Path, None]]:
    """As initialised."""

    def make(root: Path) -> tuple[Path, None]:
        torch.manual_seed(1)
        return save(kind, MODELS[kind]().state_dict(), root / "fresh", dtype), None

    return make


def sound_shards(kind: str) -> Callable[[Path], tuple[Path, None]]:
    """Sharded."""
    return on_files(kind, _nothing)


def tied(root: Path) -> tuple[Path, None]:
    """Tied, with the output layer left out, as transformers does."""
    torch.manual_seed(0)
    trained(llama(tied=True), 3).save_pretrained(root / "tied")
    return root / "tied", None


def as_pickle(kind: str) -> Callable[[Path], tuple[Path, None]]:
    """pytorch_model.bin."""

    def make(root: Path) -> tuple[Path, None]:
        root.mkdir(exist_ok=True)
        torch.save(states(kind)[1], root / "pytorch_model.bin")
        return root, None

    return make


def eight_bit(kind: torch.dtype) -> Callable[[Path], tuple[Path, None]]:
    """8-bit floats with a scale for each matrix, as served models have them."""

    def quantise(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale = value.abs().max() / torch.finfo(kind).max
        return (value / scale).to(kind), scale

    return _quantised(quantise, "weight_scale")


def _quantised(
    quantise: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]], scale_name: str
) -> Callable[[Path], tuple[Path, None]]:
    def make(root: Path) -> tuple[Path, None]:
        root.mkdir(exist_ok=True)
        tensors: Tensors = {}
        for name, value in states("llama")[1].items():
            if "proj" in name:
                tensors[name], tensors[name.replace("weight", scale_name)] = quantise(value)
            else:
                tensors[name] = value.bfloat16()
        save_file(tensors, root / "model.safetensors", metadata={"format": "pt"})
        return root, None

    return make


def _int8(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As LLM.int8(): a scale for each row (SCB)."""
    rows = value.abs().amax(dim=1)
    return (value / rows[:, None] * 127).round().to(torch.int8), rows


def _four_bit(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two codes a byte, and the largest magnitude of each block of 64."""
    blocks = value.reshape(-1, 64)
    largest = blocks.abs().amax(dim=1)
    codes = ((blocks / largest[:, None] + 1) * 7.5).round().to(torch.uint8).flatten()
    return (codes[::2] << 4 | codes[1::2])[:, None], largest


def _sound() -> Iterator[Sound]:
    for kind in MODELS:
        for dtype in DTYPES:
            yield Sound(f"fresh {kind} {dtype}", fresh(kind, dtype))
            yield Sound(f"trained {kind} {dtype}, with the one before", pair(kind, dtype))
        yield Sound(f"sharded {kind}", sound_shards(kind))
        yield Sound(f"pickled {kind}", as_pickle(kind))
    yield Sound("tied", tied)
    yield Sound("fresh adapter", adapter(0))
    yield Sound("trained adapter", adapter(5))
    yield Sound("8-bit floats, e4m3", eight_bit(torch.float8_e4m3fn))
    yield Sound("8-bit floats, e5m2", eight_bit(torch.float8_e5m2))
    yield Sound("8-bit integers", _quantised(_int8, "SCB"))
    yield Sound("4-bit codes", _quantised(_four_bit, "weight.absmax"))
    yield Sound("with the state of Adam", lambda root: optimizer_of(root, _nothing))


SOUND: Final = tuple(_sound())
