"""``rlhf-otel reward compare``, on columns and on real reward models."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tiny_trainers
from click.testing import CliRunner
from transformers import LlamaForSequenceClassification

from rlhf_otel.cli import commands
from rlhf_otel.errors import RewardModelError
from rlhf_otel.reward_model.comparison import compare, verdict


def written(folder: Path, rows: list[Any]) -> Path:
    path = folder / "scores.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows() -> list[dict[str, Any]]:
    """``good`` and ``alike`` rank alike; ``sliced`` does so but on code, where it is the other way round."""
    rng = random.Random(0)
    found = []
    for i in range(120):
        good, source = rng.gauss(0, 1), ("prose", "prose", "code")[i % 3]
        sliced = -good if source == "code" else good
        row = {"good": good, "alike": 3 * good + 5, "swapped": -good, "constant": 1.0}
        found.append({**row, "source": source, "sliced": sliced})
    return found


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(commands, ["reward", "compare", *map(str, arguments)])


@pytest.mark.parametrize(
    ("other", "code", "said"),
    [
        ("alike", 0, "rank alike"),
        ("swapped", 3, "sign swapped"),
        ("constant", 3, "constant"),
        ("sliced", 3, "rank differently"),
    ],
)
def test_columns(other: str, code: int, said: str, tmp_path: Path) -> None:
    found = run("good", other, written(tmp_path, rows()))
    assert found.exit_code == code
    assert said in found.output


def test_a_slice_where_they_part_is_named(tmp_path: Path) -> None:
    found = run("good", "sliced", written(tmp_path, rows()), "--by", "source")
    assert "They part most in source=code" in found.output
    table = run("good", "sliced", written(tmp_path, rows()), "--by", "source", "--format", "json")
    slices = json.loads(table.output)["slices"]
    assert slices["source=prose"]["rank_correlation"] == pytest.approx(1.0)
    assert slices["source=code"]["rank_correlation"] == pytest.approx(-1.0)
    assert slices["source=code"]["sign_flips"] > 0.9


def test_another_scale_is_an_effect_and_no_other_shape() -> None:
    good = [row["good"] for row in rows()]
    found = compare(good, [3 * score + 5 for score in good])
    assert found is not None
    assert found.whole.distance.value == 0.0
    assert (found.whole.effect_size or 0) > 2
    assert "rank alike" in verdict(found)


def test_real_reward_models(tmp_path: Path) -> None:
    model = tiny_trainers.base_model(tmp_path, LlamaForSequenceClassification, num_labels=1)
    texts = [{"prompt": "? ", "text": text} for text in tiny_trainers.pairs()["chosen"]]
    found = run(model, model, written(tmp_path, texts))
    assert found.exit_code == 0, found.output
    assert "+1.00" in found.output


@pytest.mark.parametrize(
    ("arguments", "content", "said"),
    [
        (("good", "missing"), '{"good": 1.0}\n', "neither a column"),
        (("good", "good"), "", "no rows"),
        (("good", "good"), '{"good": 1.0}\n{"good"\n', "line 2: not JSON"),
        (("good", "good"), "[1]\n", "is no object"),
        (("good", "good"), '{"good": 1.0}\n', "fewer than 8 rows"),
        (("good", "good", "--by", "topic"), '{"good": 1.0}\n', "no such column"),
    ],
)
def test_what_cannot_be_compared_is_told(
    arguments: tuple[str, ...], content: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "scores.jsonl"
    path.write_text(content, encoding="utf-8")
    found = run(*arguments[:2], path, *arguments[2:])
    assert isinstance(found.exception, RewardModelError)
    assert said in str(found.exception)


def test_a_directory_without_a_model_and_rows_without_a_text(tmp_path: Path) -> None:
    path = written(tmp_path, [{"good": 1.0}] * 9)
    (tmp_path / "model").mkdir()
    assert "no texts to score" in str(run("good", tmp_path / "model", path).exception)
    path = written(tmp_path, [{"good": 1.0, "text": "x"}] * 9)
    assert "holds no reward model" in str(run("good", tmp_path / "model", path).exception)
