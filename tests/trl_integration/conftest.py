"""A tiny model called gpt2 and data called imdb in the working directory, as the seed's examples name them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "trainers"))


@pytest.fixture(scope="session")
def local_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with gpt2 and the data sets imdb, pairs, judged and texts."""
    import random

    from datasets import Dataset

    from rlhf_otel.demo import language
    from rlhf_otel.demo.model import build

    folder = tmp_path_factory.mktemp("parts")
    tokenizer = language.tokenizer()
    build(tokenizer).save_pretrained(folder / "gpt2")
    tokenizer.save_pretrained(folder / "gpt2")
    dice = random.Random(0)
    questions = language.questions(32, dice)
    prompts = [language.prompt(numbers) for numbers in questions]
    good = [language.answer(numbers) for numbers in questions]
    bad = [" ".join(numbers) for numbers in questions]
    tables = {
        "imdb": {"text": prompts, "label": [0] * 32},
        "pairs": {"prompt": prompts, "chosen": good, "rejected": bad},
        "judged": {
            "prompt": prompts,
            "completion": good[:16] + bad[16:],
            "label": [True] * 16 + [False] * 16,
        },
        "texts": {"text": [f"{prompt} {answer}" for prompt, answer in zip(prompts, good, strict=True)]},
    }
    for name, columns in tables.items():
        Dataset.from_dict(columns).save_to_disk(folder / name)
    return folder


@pytest.fixture
def workplace(local_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of the test's own that has them."""
    for part in local_parts.iterdir():
        (tmp_path / part.name).symlink_to(part)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLHF_OTEL_METRICS_PORT", "off")
    return tmp_path
