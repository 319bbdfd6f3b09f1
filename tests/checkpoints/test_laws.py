"""Laws: sums do not depend on how a tensor is cut, health falls with what is found, spectra are exact."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_otel.catalogue.checkpoints import DRIFT_SCALE, FINDING_KINDS, band_of
from rlhf_otel.checkpoints.findings import Finding
from rlhf_otel.checkpoints.health import health, health_of
from rlhf_otel.checkpoints.naming import adapter_part, kind_of, layer_of
from rlhf_otel.checkpoints.spectrum import low_rank_spectrum, spectral_norm
from rlhf_otel.checkpoints.statistics import Moments, moments

numbers = st.lists(
    st.floats(-1e6, 1e6, width=32) | st.sampled_from([0.0, -0.0, math.nan, math.inf]), max_size=60
)
damages = st.lists(st.sampled_from(sorted({kind.damage for kind in FINDING_KINDS})), max_size=8)
kinds = st.sampled_from([kind.name for kind in FINDING_KINDS])


@given(numbers, st.integers(0, 60))
@settings(deadline=None)
def test_the_moments_of_parts_add_up_to_those_of_the_whole(values: list[float], cut: int) -> None:
    array = np.array(values, np.float64)
    whole, parts = moments(array), moments(array[:cut]).plus(moments(array[cut:]))
    assert parts[:5] == whole[:5]
    assert parts.mean == pytest.approx(whole.mean, rel=1e-6, abs=1e-6)
    assert parts.norm == pytest.approx(whole.norm, rel=1e-6, abs=1e-6)
    good = array[np.isfinite(array)]
    if len(good):
        assert whole.std == pytest.approx(float(good.std()), rel=1e-6, abs=1e-6 * max(1.0, whole.rms))


def test_nothing_at_all_has_neutral_moments() -> None:
    some = moments(np.array([1.0, 2.0]))
    assert Moments().plus(some) == some.plus(Moments()) == some
    assert Moments().rms == Moments().std == Moments().zero_ratio == 0.0


@given(damages, st.integers(0, 7))
@settings(deadline=None)
def test_health_lies_between_0_and_1_and_no_finding_raises_it(found: list[float], position: int) -> None:
    fewer = found[:position] + found[position + 1 :]
    assert 0.0 <= health_of(found) <= health_of(fewer) <= 1.0


@given(damages, st.integers(0, 7), st.floats(0, 1))
@settings(deadline=None)
def test_a_worse_finding_never_raises_health(found: list[float], position: int, worse: float) -> None:
    if position < len(found) and worse >= found[position]:
        changed = [*found[:position], worse, *found[position + 1 :]]
        assert health_of(changed) <= health_of(found) + 1e-12


@given(damages)
def test_the_worst_finding_dominates(found: list[float]) -> None:
    worst = max(found, default=0.0)
    assert 0.9 * (1 - worst) - 1e-12 <= health_of(found) <= 1 - worst + 1e-12


@given(st.lists(kinds, max_size=6))
def test_the_same_failure_in_many_places_counts_once(names: list[str]) -> None:
    findings = [Finding(name, "somewhere", "") for name in names]
    assert health(findings) == health(findings * 3)


def test_remarks_alone_leave_a_checkpoint_healthy() -> None:
    for kind in FINDING_KINDS:
        damaged = health([Finding(kind.name, "", "")])
        assert (damaged >= 0.9) == (kind.severity.value == "info"), kind.name
        assert (damaged <= 0.3) == (kind.severity.value == "critical"), kind.name


@given(st.integers(1, 6), st.integers(1, 30), st.integers(1, 30), st.integers(0, 10))
@settings(max_examples=50, deadline=None)
def test_a_low_rank_update_has_the_spectrum_of_its_product(
    rank: int, rows: int, columns: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.normal(size=(rank, columns)), generator.normal(size=(rows, rank))
    exact = np.linalg.svd(2.0 * b @ a, compute_uv=False)
    found = low_rank_spectrum(a, b, 2.0)
    assert found.norm == pytest.approx(float(np.linalg.norm(exact)))
    assert found.spectral_norm == pytest.approx(float(exact.max()))
    assert 1.0 - 1e-9 <= found.effective_rank <= rank + 1e-9


def test_the_effective_rank_counts_equal_directions() -> None:
    identity = np.eye(8)
    assert low_rank_spectrum(identity[:3], identity[:, :3]).effective_rank == pytest.approx(3.0)
    assert low_rank_spectrum(identity[:3], np.zeros((8, 3))).effective_rank == 0.0


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_the_spectral_norm_is_the_largest_singular_value(rows: int, columns: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(rows, columns))
    assert spectral_norm(matrix) == pytest.approx(float(np.linalg.norm(matrix, 2)), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "kind", "layer"),
    [
        ("model.layers.11.mlp.up_proj.weight", "model.layers.*.mlp.up_proj.weight", "model.layers.11"),
        ("transformer.h.0.attn.c_attn.weight", "transformer.h.*.attn.c_attn.weight", "transformer.h.0"),
        ("model.layers.3.experts.7.w1.weight", "model.layers.*.experts.*.w1.weight", "model.layers.3"),
        ("model.embed_tokens.weight", "model.embed_tokens.weight", "model.embed_tokens"),
        ("conv2d.weight", "conv2d.weight", "conv2d"),
        ("w", "w", "w"),
    ],
)
def test_names_tell_kind_and_layer(name: str, kind: str, layer: str) -> None:
    assert (kind_of(name), layer_of(name)) == (kind, layer)


def test_names_of_adapters_tell_module_and_side() -> None:
    found = adapter_part("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")
    assert found == ("base_model.model.model.layers.0.self_attn.q_proj", "A")
    assert adapter_part("model.layers.0.lora_B.default.weight") == ("model.layers.0", "B")
    assert adapter_part("model.layers.0.mlp.up_proj.weight") is None


def test_reading_a_safetensors_checkpoint_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(
        (64).to_bytes(8, "little")
        + b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(64)
        + bytes(8)
    )
    code = (
        "import sys; import rlhf_otel.checkpoints as c; assert 'numpy' not in sys.modules\n"
        f"assert c.inspect({str(tmp_path)!r}).weights; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_finding_is_documented_with_its_severity_and_damage() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    for kind in FINDING_KINDS:
        assert f"| `{kind.name}` | {kind.severity.value} | {kind.damage:g} | {kind.meaning} |" in page


def test_the_scale_of_drifts_is_documented_and_has_a_row_for_every_drift() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    for band in DRIFT_SCALE:
        row = f"below {band.below:g}" if math.isfinite(band.below) else "above"
        assert f"| {row} | {band.judgement} | {band.advice} |" in page
    assert [band_of(drift).is_usual for drift in (1e-9, 1e-5, 0.0299, 0.03, 1e9, math.inf)] == [
        False, True, True, False, False, False,
    ]  # fmt: skip
