"""``rlhf-otel drill``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rlhf_otel.cli.addresses import address
from rlhf_otel.cli.saying import say

if TYPE_CHECKING:
    from rlhf_otel.drill.legs import Leg


@click.command()
@click.option(
    "--prometheus",
    "prometheus_url",
    callback=address,
    help="Prometheus' address; default: the one of `rlhf-otel up`, else http://localhost:9090.",
)
@click.option(
    "--alertmanager",
    "alertmanager_url",
    callback=address,
    help="Default: the one that Prometheus sends alerts to.",
)
@click.option("--team", default="", help="Team whose route is tried.")
@click.option(
    "--severity",
    type=click.Choice(["critical", "warning"]),
    default="critical",
    show_default=True,
    help="Route that is tried: a critical one pages.",
)
@click.option("--host", default="localhost", show_default=True, help="Address that the drill listens on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port that Prometheus scrapes; default: a registered one with `rlhf-otel up`, else 9464.",
)
@click.option(
    "--file-sd",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Directory that Prometheus watches: the drill registers there, on a free port.",
)
@click.option("--timeout", default=240.0, show_default=True, help="Seconds, for the whole way.")
@click.option("--json", "as_json", is_flag=True, help="Tell the legs as JSON.")
def drill(
    prometheus_url: str | None,
    alertmanager_url: str | None,
    team: str,
    severity: str,
    host: str,
    port: int | None,
    file_sd: Path | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Send a marked test anomaly all the way, and say where it got to.

    It is scraped, fires, is routed and delivered like any other, as the alert RLHFDrill of a run drill-...; whoever is on
    call reads that it is a drill. Exits with 1 when it got stuck, and says where and why.
    """
    import secrets

    from rlhf_otel.doctor.examination import DEFAULT_PROMETHEUS
    from rlhf_otel.drill.legs import Drill
    from rlhf_otel.drill.target import Marked, exposed
    from rlhf_otel.servers.alertmanager import Alertmanager
    from rlhf_otel.servers.prometheus import Prometheus
    from rlhf_otel.settings import METRICS_PORT
    from rlhf_otel.stack.state import of_this_user

    stack = of_this_user() if prometheus_url is None else None
    if stack is not None:
        prometheus_url = stack.url("prometheus")
        if port is None and file_sd is None and stack.registry:
            file_sd = Path(stack.registry)
    if port is None:
        port = 0 if file_sd is not None else METRICS_PORT
    marked = Marked(f"drill-{secrets.token_hex(4)}", severity, team)
    pager = Alertmanager(alertmanager_url) if alertmanager_url else None
    with exposed(marked, host, port, file_sd) as target:
        under_way = Drill(marked, target, Prometheus(prometheus_url or DEFAULT_PROMETHEUS), pager, timeout)
        arrived = under_way.run((lambda _: None) if as_json else _tell)
    if as_json:
        legs = [leg._asdict() for leg in under_way.legs]
        say(json.dumps({"run_id": marked.run_id, "delivered": arrived, "legs": legs}, indent=2))
    elif arrived:
        say(f"{marked.run_id}: all the way in {sum(leg.seconds for leg in under_way.legs):.1f} s")
    if not arrived:
        raise click.exceptions.Exit(1)


def _tell(leg: Leg) -> None:
    mark = "" if leg.reached else "NOT "
    say(f"{mark}{leg.name:<10} {leg.seconds:6.1f} s  {leg.said}")
