"""One endpoint a process: the runs that it exposes, from their start until Prometheus has seen their end.

Where a directory for ``file_sd`` is set, the process has a file there while it exposes a run: it goes after the
hold and some seconds before the port, so that Prometheus never finds the port closed.

An ended run stays exposed until every Prometheus server that scrapes this process has seen it twice, at most
``linger_s``, also while the next run goes on; then its series go, and with the last run the port is closed.
Training never waits for that: only the end of the process does, and only while a Prometheus server was seen in
the last minutes.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import threading
import time
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Final

from rlhf_otel import faults
from rlhf_otel.exporters.endpoint import Endpoint
from rlhf_otel.exporters.exposition import RunsCollector
from rlhf_otel.exporters.file_sd import TOUCH_S, TargetFile, scheme_of, target_of
from rlhf_otel.exporters.protection import Protection
from rlhf_otel.records import RunView

if TYPE_CHECKING:
    from rlhf_otel.run import Run

logger = logging.getLogger("rlhf_otel")

FORGET_S: Final = 6.0
"""Time from the removal of the target's file until Prometheus has forgotten it: its discovery hands changes on
every 5 seconds."""
DISK_S: Final = 5.0
"""How long the end of the process waits for a file system that hangs."""

MOST_ENDED: Final = 8
"""Runs that are kept at most after their end, while another goes on. They have some 20 series each."""

_lock = threading.Lock()
_target_lock = threading.Lock()
_target = TargetFile()
_withdrawn = threading.Event()
_runs: list[Run] = []
_endpoint: Endpoint | None = None


def address() -> str | None:
    """Base URL of the endpoint while one is up."""
    return _endpoint.url if _endpoint is not None else None


def scrapes() -> tuple[int, float]:
    """Scrapes answered, and the seconds that they took."""
    return (_endpoint.scrapes, _endpoint.scrape_seconds) if _endpoint is not None else (0, 0.0)


def expose(run: Run, host: str, port: int, protection: Protection | None = None) -> None:
    """Expose ``run``, starting the endpoint if this process has none; one that is there stays as it is protected.

    A run of the same id makes room, since its series would be there twice. Others that have ended stay until
    that has been seen, with what they have to say about themselves as runs.
    """
    global _endpoint
    run_id = run.pipeline.identity.run_id
    with _lock:
        if run.ended:
            return
        others = [other for other in _runs if other.pipeline.identity.run_id != run_id]
        ended = [other for other in others if other.ended]
        _runs[:] = [other for other in others if other not in ended[:-MOST_ENDED]]
        _runs.append(run)
        if _endpoint is None:
            endpoint = Endpoint(
                host, port, RunsCollector(_views), _health, stacks=_stacks, protection=protection
            )
            if endpoint.start() is not None:
                _endpoint = endpoint
                _end_in_a_child()
                logger.info("metrics at %s/metrics", endpoint.url)
    if run.settings.file_sd is not None:  # a directory on a network may hang
        threading.Thread(target=_keep_published, name="rlhf_otel-target", daemon=True).start()


def ended(run: Run, linger_s: float) -> None:
    """``run`` has ended: hold its series until they have been scraped, without waiting for it here."""
    endpoint = _endpoint
    if endpoint is None:
        _withdraw(run)
        return
    arguments = (run, endpoint, endpoint.begin_hold(), linger_s)
    threading.Thread(target=_hold, args=arguments, name="rlhf_otel-hold", daemon=True).start()


def wait(linger_s: float, scrapes_each: int = 2) -> bool:
    """Wait until ended runs have been scraped, at most ``linger_s`` from the end; True when they have
    been."""
    endpoint = _endpoint
    return endpoint is None or endpoint.wait_held(linger_s, scrapes_each=scrapes_each)


def retract() -> None:
    """The process is about to end: expose nothing any more, and let Prometheus forget this target."""
    _runs.clear()
    withdrawing = threading.Thread(target=_forgotten, name="rlhf_otel-target", daemon=True)
    withdrawing.start()
    withdrawing.join(FORGET_S + DISK_S)


def close() -> None:
    """Close the endpoint, whatever it still holds."""
    global _endpoint
    with _lock:
        endpoint, _endpoint = _endpoint, None
        _runs.clear()
    if endpoint is not None:
        endpoint.close()


def _views() -> list[RunView]:
    runs = list(_runs)
    return [run.view()._replace(outlived=run.ended and run is not runs[-1]) for run in runs]


def _health() -> tuple[bool, str]:
    runs = list(_runs)
    return runs[-1].stalls.health() if runs else (True, "ok: no run")


def _stacks() -> str | None:
    runs = list(_runs)
    stacks = runs[-1].stalls.stacks if runs else None
    return stacks() if stacks is not None else None


def _hold(run: Run, endpoint: Endpoint, since: float, linger_s: float) -> None:
    with faults.isolated("endpoint", "holding the endpoint for Prometheus"):
        endpoint.wait_held(linger_s, since=since)
        _withdraw(run)


def _keep_published() -> None:
    """Publish the target, and go on saying that it lives until it is withdrawn."""
    global _withdrawn
    with _target_lock:
        _withdrawn.set()  # the thread of a run before this one ends
        _withdrawn = withdrawn = threading.Event()
    _publish()
    while not withdrawn.wait(TOUCH_S):
        _publish()


def _publish() -> None:
    """Make the target's file say what is exposed now: the latest run, or nothing."""
    with _target_lock, faults.isolated("endpoint", "writing the target for file_sd"):
        endpoint, runs = _endpoint, [run for run in _runs if run.settings.file_sd is not None]
        url = endpoint.url if endpoint is not None else None
        if endpoint is None or url is None or not runs:
            _withdrawn.set()
            _target.drop()
            return
        directory, identity = runs[-1].settings.file_sd, runs[-1].pipeline.identity
        assert directory is not None
        _target.keep(directory, identity, target_of(endpoint.host, url), scheme_of(url))


def _withdraw(run: Run) -> None:
    global _endpoint
    with _lock:
        if run in _runs:
            _runs.remove(run)
    _forgotten()
    with _lock:
        idle = None if _runs else _endpoint
        if idle is not None:
            _endpoint = None
            idle.close()  # before a new run may want the port


def _forgotten() -> None:
    """Take the target out of ``file_sd`` if no run is left, and let Prometheus forget it."""
    present, endpoint = _target.present, _endpoint
    _publish()
    if present and not _target.present and endpoint is not None and endpoint.clients.present():
        time.sleep(FORGET_S)


def _forget_in_child() -> None:
    """A forked child, such as a data loader's worker, observes nothing and ends nothing."""
    global _endpoint, _lock, _target, _target_lock
    _lock, _target_lock, _target = threading.Lock(), threading.Lock(), TargetFile()
    _runs.clear()
    _endpoint = None


os.register_at_fork(after_in_child=_forget_in_child)


def _end_in_a_child() -> None:
    """A process of multiprocessing, which torch's ``spawn`` and accelerate's ``notebook_launcher`` start ranks as, ends
    without ``atexit``."""
    if multiprocessing.parent_process() is not None:
        Finalize(None, _at_exit, exitpriority=0)


@atexit.register
def _at_exit() -> None:
    runs = list(_runs)
    if not runs:
        return
    for run in runs:
        run.abandoned()
    wait(max(run.settings.linger_s for run in runs))
    retract()
    close()
