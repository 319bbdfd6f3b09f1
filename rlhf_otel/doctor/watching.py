"""Checks of Prometheus and Alertmanager: reachable, scraping, with rules, routing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from rlhf_otel.catalogue.recorded import RECORDED_BY_NAME
from rlhf_otel.catalogue.rules import RULES, Severity
from rlhf_otel.doctor.finding import Finding, ok, problem, warning
from rlhf_otel.errors import ServerError
from rlhf_otel.servers.alertmanager import Alertmanager, route_of
from rlhf_otel.servers.prometheus import Prometheus

SKEW_S: Final = 5.0
"""Ages (since progress, since a checkpoint) are differences of both clocks; heuristic."""
GENERATE: Final = "rlhf-otel generate --out DIR writes them; name them in rule_files and reload Prometheus"


def prometheus_findings(server: Prometheus, run_id: str | None, port: int | None) -> Iterator[Finding]:
    """Of one server. The first failure to reach it is the last finding."""
    try:
        skew = server.time() - time.time()
    except ServerError as error:
        yield problem(
            "prometheus", str(error), "start it (`rlhf-otel up`), or give its address (--prometheus)"
        )
        return
    yield ok("prometheus", f"{server.url} answers")
    if abs(skew) > SKEW_S:
        yield warning(
            "clock", f"{skew:+.0f} s between Prometheus and here", "run NTP (chrony) on both machines"
        )
    else:
        yield ok("clock", f"{abs(skew):.1f} s between Prometheus and here")
    try:
        yield _scraping(server, run_id, port)
        yield _rules(server)
        yield _recording(server)
        yield _exemplars(server)
    except ServerError as error:
        yield problem("prometheus", str(error), "see Prometheus' log")


def _scraping(server: Prometheus, run_id: str | None, port: int | None) -> Finding:
    if run_id is not None:
        found = server.query(f'max by (rank) (rlhf_last_progress_timestamp_seconds{{run_id="{run_id}"}})')
        told = server.query(f'rlhf_run_info{{run_id="{run_id}",rank="0"}}')
        expected = max((int(each.labels.get("world_size", "1")) for each in told), default=len(found))
        if 0 < len(found) < expected:
            return problem(
                "scraping",
                f"{len(found)} of {expected} ranks of {run_id}",
                f"see {server.url}/targets; each rank has a port of its own, and a target (docs/integrations.md)",
            )
        if found:
            return ok("scraping", f"{len(found)} {'rank' if len(found) == 1 else 'ranks'} of {run_id}")
        return problem(
            "scraping",
            f"no series of run {run_id}",
            f"see {server.url}/targets for its target, and is the run there?",
        )
    targets = server.targets()
    mine = [target for target in targets if port is not None and f":{port}/" in target.url]
    if not mine:
        said = f"no target with port {port} among {len(targets)}"
        return problem(
            "scraping",
            said,
            "add it to scrape_configs (deploy/prometheus.yml), or use file_sd for many ranks",
        )
    up = [target for target in mine if target.up]
    if not up:
        error = mine[0].error or "not scraped yet"
        return warning("scraping", f"{mine[0].url} is a target, but: {error}", "normal while no run is there")
    return ok("scraping", f"{up[0].url} is up")


def _rules(server: Prometheus) -> Finding:
    loaded = server.alerting_rules()
    missing = sorted({rule.alert for rule in RULES} - loaded.keys())
    if len(missing) == len(RULES):
        return problem("rules", "no alerting rules of ours are loaded", GENERATE)
    broken = sorted(name for name, error in loaded.items() if error and name.startswith("RLHF"))
    if broken:
        return problem(
            "rules", f"{broken[0]}: {loaded[broken[0]]}", "generate the rule files again with this version"
        )
    if missing:
        said = f"{len(missing)} of {len(RULES)} rules are missing, such as {missing[0]}"
        return warning("rules", said, f"disabled on purpose, or of another version: {GENERATE}")
    return ok("rules", f"all {len(RULES)} are loaded")


def _recording(server: Prometheus) -> Finding:
    missing = sorted(RECORDED_BY_NAME.keys() - server.recording_rules())
    if missing:
        said = (
            f"{len(missing)} of {len(RECORDED_BY_NAME)} are missing, such as {missing[0]}: boards stay empty"
        )
        return problem("recording rules", said, GENERATE)
    return ok("recording rules", f"all {len(RECORDED_BY_NAME)} are loaded")


def _exemplars(server: Prometheus) -> Finding:
    if "exemplar-storage" in server.features():
        return ok("exemplars", "stored")
    return warning(
        "exemplars",
        "not stored: boards lead to no traces",
        "start Prometheus with --enable-feature=exemplar-storage",
    )


def alertmanager_findings(server: Prometheus, given: str | None) -> Iterator[Finding]:
    """Of the Alertmanagers that Prometheus sends to, or of the one that is given."""
    try:
        known = server.alertmanagers()
    except ServerError:  # which has been told
        known = []
    else:
        yield from _sending(server, known)
    for address in [given] if given else known:
        try:
            yield from _routing(Alertmanager(address))
        except ServerError as error:
            yield problem("alertmanager", str(error), "start it, or give its address (--alertmanager)")


def _sending(server: Prometheus, known: list[str]) -> Iterator[Finding]:
    if not known:
        yield problem(
            "alerting", f"{server.url} sends alerts nowhere", "name an Alertmanager in alerting.alertmanagers"
        )


def _routing(pager: Alertmanager) -> Iterator[Finding]:
    configuration = pager.configuration()
    yield ok("alertmanager", f"{pager.url} answers")
    receivers = {each["name"]: each for each in configuration.get("receivers", ())}
    for what, labels in (
        ("pages", {"severity": Severity.CRITICAL.value, "run_id": "r"}),
        ("dead man's switch", {"alertname": "RLHFWatchdog", "severity": "info"}),
    ):
        name = str(route_of(configuration["route"], labels)["receiver"])
        if any(key.endswith("_configs") for key in receivers.get(name, ())):
            yield ok(what, f"go to receiver {name}" if what == "pages" else f"goes to receiver {name}")
        else:
            yield warning(
                what,
                f"receiver {name} has no channel: nobody is told",
                "say who is told (docs/paging.md): `rlhf-otel up --paging FILE`, or `rlhf-otel generate --paging FILE`",
            )
    if any("RLHF" in str(each) for each in configuration.get("inhibit_rules", ())):
        yield ok("inhibition", f"{len(configuration['inhibit_rules'])} rules")
    else:
        yield warning(
            "inhibition",
            "no rules of ours: a cause and its effects page apart",
            "use deploy/alertmanager.yml",
        )
