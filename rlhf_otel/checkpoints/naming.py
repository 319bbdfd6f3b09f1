"""What a tensor's name tells: its layer, its kind, and its part in an adapter."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_NUMBER: Final = re.compile(r"(?<![^.])\d+(?![^.])")
_ADAPTER: Final = re.compile(r"^(?P<module>.*)\.lora_(?:embedding_)?(?P<side>[AB])(?:\.[^.]+)*$")
_EMBEDDING: Final = re.compile(
    r"embed|wte|wpe|shared\.weight|lm_head|embed_out|output\.weight", re.IGNORECASE
)
_OF_THE_QUANTISATION: Final = re.compile(
    r"absmax|quant_map|quant_state|nested_|\.SCB$|scales?$|qzeros$|g_idx$|scale_inv$|_scale$|zero_point$"
)

OUTPUT_NAMES: Final = ("lm_head.weight", "embed_out.weight", "output.weight")
INPUT_NAMES: Final = (
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embeddings.weight",
    "shared.weight",
)


class AdapterPart(NamedTuple):
    """A matrix of a LoRA adapter."""

    module: str
    side: str
    """A or B."""


def kind_of(name: str) -> str:
    """The name with ``*`` for numbers: tensors of one kind do the same work in different layers."""
    return _NUMBER.sub("*", name)


def layer_of(name: str) -> str:
    """The numbered layer, such as ``model.layers.3``; of a tensor outside of them its module."""
    match = _NUMBER.search(name)
    return name[: match.end()] if match else name.rpartition(".")[0] or name


def adapter_part(name: str) -> AdapterPart | None:
    """Module and side of a LoRA matrix; None for other tensors."""
    match = _ADAPTER.match(name)
    return AdapterPart(match["module"], match["side"]) if match else None


def module_in_the_model(module: str) -> str:
    """The name that an adapted module has in the model itself, without what PEFT puts before it."""
    return module.removeprefix("base_model.model.")


def is_embedding(name: str) -> bool:
    """Whether it is an embedding or an output layer, without which nothing works."""
    return bool(_EMBEDDING.search(name))


def is_bias(name: str) -> bool:
    """Whether it is a bias: often zero, and of any size."""
    return name.endswith("bias")


def is_scale(name: str) -> bool:
    """Whether it belongs to a quantisation: scales, maps and offsets, which are no weights."""
    return bool(_OF_THE_QUANTISATION.search(name))


def output_and_input(names: list[str]) -> tuple[str, str] | None:
    """Names of output layer and input embedding, where both are there."""
    output = next((name for name in names if name.endswith(OUTPUT_NAMES)), None)
    embedding = next((name for name in names if name.endswith(INPUT_NAMES)), None)
    return (output, embedding) if output and embedding else None
