"""Scores for a comparison: columns of a file, or what a reward model that lies on disk says of the file's texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rlhf_otel import json_text
from rlhf_otel.errors import RewardModelError
from rlhf_otel.reward_model.two_samples import clipped

BATCH: Final = 16
TEXT: Final = ("text", "completion", "response")
"""Columns that can hold what a model scores; a column ``prompt`` is put in front of it."""


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file. RewardModelError, naming the line, for what is none."""
    rows = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RewardModelError(f"{path} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json_text.loads(line)
        except (ValueError, RecursionError) as error:
            raise RewardModelError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise RewardModelError(f"{path}, line {number}: {row!r:.60} is no object")
        rows.append(row)
    if not rows:
        raise RewardModelError(f"{path} has no rows: give a JSON Lines file with one completion a line")
    return rows


def scores_of(which: str, rows: Sequence[Mapping[str, Any]], path: Path) -> list[float]:
    """A score for each row: of the column ``which``, or by the model in the directory ``which``.

    RewardModelError where it is neither. A score that is missing or no number is NaN.
    """
    if any(which in row for row in rows):
        return [_number(row.get(which)) for row in rows]
    if Path(which).is_dir():
        return _by_model(Path(which), _texts(rows, path))
    columns = ", ".join(sorted({key for row in rows for key in row})[:20])
    raise RewardModelError(
        f"{which} is neither a column of {path} (it has {columns}) nor the directory of a reward model"
    )


def _texts(rows: Sequence[Mapping[str, Any]], path: Path) -> list[str]:
    name = next((name for name in TEXT if all(isinstance(row.get(name), str) for row in rows)), None)
    if name is None:
        raise RewardModelError(
            f"{path} has no texts to score: name a column {', '.join(TEXT[:-1])} or {TEXT[-1]}"
        )
    return [f"{row.get('prompt') or ''}{row[name]}" for row in rows]


def _by_model(directory: Path, texts: Sequence[str]) -> list[float]:
    """Scores of a transformers model for sequence classification with one label, on the CPU or its GPU."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        model = AutoModelForSequenceClassification.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError) as error:
        raise RewardModelError(f"{directory} holds no reward model: {str(error).splitlines()[0]}") from error
    if model.config.num_labels != 1:
        raise RewardModelError(f"{directory} has {model.config.num_labels} labels: a reward model has one")
    model.eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    scores: list[float] = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(
            list(texts[start : start + BATCH]), return_tensors="pt", padding=True, truncation=True
        )
        batch.pop("token_type_ids", None)
        with torch.inference_mode():
            scores += model(**batch.to(model.device)).logits[:, 0].float().tolist()
    return scores


def _number(value: Any) -> float:
    return clipped(float(value)) if isinstance(value, int | float) else float("nan")
