"""Data sets from the hub or from disk, with the columns that an algorithm needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from rlhf_otel.errors import ConfigurationError

_BUILDERS: Final = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_TEXTS: Final = ("prompt", "query", "text")
_NEEDED: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "dpo": (("chosen", "rejected"),),
    "reward": (("chosen", "rejected"),),
    "kto": (("prompt", "completion", "label"),),
    "sft": (("text",), ("messages",), ("prompt", "completion")),
}
"""Columns of which one set must be there."""


def load(name: str) -> Any:
    """The training split. Raises ConfigurationError where it cannot be had."""
    import datasets

    path = Path(name)
    try:
        if path.is_dir() and (path / "state.json").is_file():
            return datasets.load_from_disk(name)
        if path.is_file():
            builder = _BUILDERS.get(path.suffix)
            if builder is None:
                raise ConfigurationError(f"{name}: a data set's file ends in {', '.join(_BUILDERS)}")
            return datasets.load_dataset(builder, data_files=name, split="train")
        return datasets.load_dataset(name, split="train")
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, ConfigurationError):
            raise
        hint = "give a local path (a directory of save_to_disk, or a file) where the hub cannot be reached"
        raise ConfigurationError(f"the data set {name!r} cannot be loaded: {error}; {hint}") from error


def prepared(data: Any, algorithm: str, tokenizer: Any, max_prompt_tokens: int) -> Any:
    """With the columns that the algorithm's trainer reads. Raises ConfigurationError where they cannot be had."""
    wanted = _NEEDED.get(algorithm) or tuple((name,) for name in _TEXTS)
    there = next((names for names in wanted if set(names) <= set(data.column_names)), None)
    if there is None:
        needed = " or ".join(", ".join(names) for names in wanted)
        has = ", ".join(sorted(data.column_names))
        raise ConfigurationError(f"{algorithm} needs the columns {needed}; the data set has {has}")
    if algorithm == "ppo":
        return _tokenized(data, there[0], tokenizer, max_prompt_tokens)
    if algorithm in _NEEDED or not isinstance(data[0][there[0]], str):
        return data
    return _prompts(data, there[0], tokenizer, max_prompt_tokens)


def _tokenized(data: Any, source: str, tokenizer: Any, most: int) -> Any:
    """PPO takes token ids."""

    def rows(batch: dict[str, list[str]]) -> dict[str, Any]:
        return {"input_ids": tokenizer(batch[source], truncation=True, max_length=most)["input_ids"]}

    return data.map(rows, batched=True, remove_columns=data.column_names).filter(lambda row: row["input_ids"])


def _prompts(data: Any, source: str, tokenizer: Any, most: int) -> Any:
    """Texts cut to their first tokens: to continue a text, as of imdb, its beginning is the prompt."""

    def rows(batch: dict[str, list[str]]) -> dict[str, list[str]]:
        ids = tokenizer(batch[source], truncation=True, max_length=most, add_special_tokens=False)[
            "input_ids"
        ]
        return {"prompt": tokenizer.batch_decode(ids)}

    return data.map(rows, batched=True).filter(lambda row: row["prompt"].strip())
