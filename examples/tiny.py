"""A tiny model, a reward model and data on disk, so that the examples run in seconds, without network or GPU.

Each example takes ``--model`` and ``--data`` (hub names or local paths) instead.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

from transformers import LlamaForSequenceClassification

from rlhf_otel.demo import language
from rlhf_otel.demo.model import pretrained


class Parts(NamedTuple):
    """Where they are."""

    model: str
    data: str
    output: str


def parts(description: str) -> tuple[Parts, int]:
    """What the command line asks for, and how many steps."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", help="Hub name or local path; by default a tiny model that is made here.")
    parser.add_argument("--data", help="Hub name or local path; by default questions of a toy language.")
    parser.add_argument("--output", help="Directory for what the run writes; by default a temporary one.")
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    output = given.output or tempfile.mkdtemp(prefix="rlhf_otel-example-")
    model = given.model or make_model(Path(output) / "model")
    data = given.data or make_data(Path(output) / "data")
    return Parts(model, data, output), given.steps


def make_model(folder: Path) -> str:
    """A language model that is about half right, with its tokenizer."""
    tokenizer = language.tokenizer()
    pretrained(tokenizer, seed=0, steps=60).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_reward_model(model: str, folder: Path) -> str:
    """A reward model of the same kind; its head is untrained."""
    LlamaForSequenceClassification.from_pretrained(model, num_labels=1).save_pretrained(folder)
    language.tokenizer().save_pretrained(folder)
    return str(folder)


def make_data(folder: Path) -> str:
    """Prompts, with the answers that a reward compares with."""
    language.dataset(64, seed=0).save_to_disk(folder)
    return str(folder)


def sorted_share(completions: list[str], answer: list[str], **_: object) -> list[float]:
    """Share of words that stand where they do in the answer."""
    pairs = [(text.split(), right.split()) for text, right in zip(completions, answer, strict=True)]
    return [sum(a == b for a, b in zip(said, right, strict=False)) / len(right) for said, right in pairs]


def brevity(completions: list[str], **_: object) -> list[float]:
    """One less a twentieth for each word."""
    return [1.0 - len(text.split()) / 20 for text in completions]
