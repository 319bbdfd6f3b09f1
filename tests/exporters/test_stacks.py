"""Stacks as text, and the file that keeps the latest of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_otel.exporters import stacks
from rlhf_otel.exporters.stacks import StackFile, named, stacks_of_all_threads

SECRET = "a prompt that nobody may see"


@pytest.fixture
def waiting() -> Iterator[threading.Thread]:
    """A thread in a function of its own."""
    reached, release = threading.Event(), threading.Event()

    def waits_for_a_service(prompt: str) -> None:
        reached.set()
        release.wait()

    thread = threading.Thread(target=waits_for_a_service, args=(SECRET,), name="odd\nname")
    thread.start()
    reached.wait()
    yield thread
    release.set()
    thread.join()


def test_functions_files_and_lines_and_no_values(waiting: threading.Thread) -> None:
    text = stacks_of_all_threads(waiting.ident)
    first = text.splitlines()[0]
    assert first == f'Thread {named(waiting.ident or 0)} "odd\\nname", which trains (most recent call first):'
    assert f'File "{__file__}", line ' in text
    assert "waits_for_a_service" in text
    assert SECRET not in text
    assert "test_functions_files_and_lines" not in text, "who asks is left out"


def test_many_threads_are_bounded(waiting: threading.Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "MAX_THREADS", 0)
    assert stacks_of_all_threads().startswith("... and ")


def test_deep_stacks_are_bounded(waiting: threading.Thread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "MAX_FRAMES", 1)
    (shown,) = [part for part in stacks_of_all_threads().split("\n\n") if "odd" in part]
    assert len(shown.strip().splitlines()) == 3
    assert shown.rstrip().endswith("...")


A_STACK = 'Thread 0x01 (most recent call first):\n  File "f.py", line 1 in f\n'


def test_what_others_append_is_seen(tmp_path: Path) -> None:
    file = StackFile(tmp_path / "new" / "stacks.txt", "head\n")
    assert not file.has_grown()
    os.write(file.descriptor, A_STACK.encode())
    assert file.has_grown()
    assert file.appended() == A_STACK
    assert not file.has_grown()
    file.append("ours\n")
    assert not file.has_grown()
    file.close()
    assert (tmp_path / "new" / "stacks.txt").read_text() == f"head\n{A_STACK}ours\n"


def test_a_file_without_stacks_goes_and_one_of_an_earlier_attempt_stays(tmp_path: Path) -> None:
    path = tmp_path / "stacks.txt"
    StackFile(path, "head\n").close()
    assert not path.exists()
    first = StackFile(path, "head\n")
    first.append(A_STACK)
    first.close()
    StackFile(path, "second head\n").close()
    assert path.read_text() == f"head\n{A_STACK}second head\n"


def test_a_file_without_a_name_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    file = StackFile(None, "head\n")
    os.write(file.descriptor, A_STACK.encode())
    assert file.appended() == A_STACK
    file.close()
    assert list(tmp_path.iterdir()) == []


def test_the_newest_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "MAX_BYTES", 4096)
    file = StackFile(tmp_path / "stacks.txt", "head\n")
    for number in range(200):
        file.append(f"{A_STACK}number {number}\n")
    file.close()
    text = (tmp_path / "stacks.txt").read_text()
    assert len(text) < 4096 + 200
    assert text.endswith("number 199\n")
    assert "number 0\n" not in text
    assert all(line.startswith(("Thread 0x01 (", "  File", "number ")) for line in text.splitlines())


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    """The directory may be one that others write into."""
    (tmp_path / "stacks.txt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"."):
        StackFile(tmp_path / "stacks.txt", "head\n")
    assert not (tmp_path / "elsewhere").exists()
