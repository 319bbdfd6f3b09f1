"""What rank 0 says reaches the others through a real c10d store, and nobody waits for ever."""

from __future__ import annotations

import threading

import pytest
import torch.distributed as dist

from rlhf_otel.sources import agreement
from rlhf_otel.sources.agreement import Agreement, next_key


@pytest.fixture
def store() -> dist.Store:
    return dist.HashStore()


def test_what_is_told_is_heard(store: dist.Store) -> None:
    Agreement(store).tell("key", "größe ✓")
    assert Agreement(store).hear("key") == "größe ✓"
    assert Agreement(store).hear("key") == "größe ✓", "by every rank"


def test_an_empty_word_is_a_word(store: dist.Store) -> None:
    Agreement(store).tell("key", "")
    assert Agreement(store).hear("key") == ""


def test_who_asks_first_waits_for_it(store: dist.Store) -> None:
    heard: list[str | None] = []
    listener = threading.Thread(target=lambda: heard.append(Agreement(store).hear("key", 60)))
    listener.start()
    Agreement(store).tell("key", "said")
    listener.join(60)
    assert heard == ["said"]


def test_patience_ends(store: dist.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "POLL_S", 0.001)
    assert Agreement(store).hear("key", 0.01) is None


def test_keys_are_the_same_on_all_ranks_and_different_each_time() -> None:
    first, second = next_key(), next_key()
    assert first != second


def test_a_process_without_a_group_has_nobody_to_agree_with() -> None:
    assert Agreement.of_this_job() is None


def test_the_store_of_a_real_process_group(tmp_path: object) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        found = Agreement.of_this_job()
        assert found is not None
        found.tell("a key of this test", "said")
        again = Agreement.of_this_job()
        assert again is not None
        assert again.hear("a key of this test") == "said"
    finally:
        dist.destroy_process_group()
