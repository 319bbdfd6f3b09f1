"""A real Prometheus scrapes a protected endpoint with its own client: TLS, client certificates, password, token."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from otlp_receiver import free_port, wait_until
from web_configurations import MUTUAL, PASSWORD, TLS, TOKEN, TOKENS, USERS, Serve

from rlhf_otel import faults
from rlhf_otel.errors import ServerError
from rlhf_otel.servers.prometheus import Prometheus, Target

PROMETHEUS = shutil.which("prometheus")
WITHIN_S = 30.0
CA = {"ca_file": "ca.crt"}
CLIENT = {**CA, "cert_file": "client.crt", "key_file": "client.key"}
pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(PROMETHEUS is None, reason="the prometheus program is not installed"),
]


@contextlib.contextmanager
def scraping(folder: Path, jobs: list[dict[str, Any]]) -> Iterator[Prometheus]:
    """A Prometheus with these jobs, one scrape a second."""
    config = folder / "prometheus.json"
    every = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    config.write_text(json.dumps({"scrape_configs": [{**every, **job} for job in jobs]}))
    address = f"127.0.0.1:{free_port()}"
    command = [str(PROMETHEUS), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with subprocess.Popen(
        [*command, f"--web.listen-address={address}", "--log.level=error"],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            yield Prometheus(f"http://{address}")
        finally:
            process.kill()


def scraped(server: Prometheus, jobs: int, up: int) -> dict[str, Target]:
    """All targets by job, when each has been tried and so many are up. One that is right may be told to come again where
    another was wrong just before."""
    found: dict[str, Target] = {}

    def tried() -> bool:
        with contextlib.suppress(ServerError):
            found.update({target.labels["job"]: target for target in server.targets()})
        tried = [target for target in found.values() if target.up or target.error]
        return len(tried) == jobs and sum(target.up for target in tried) >= up

    wait_until(tried, WITHIN_S)
    return found


def job(name: str, port: int, **how: Any) -> dict[str, Any]:
    return {"job_name": name, "static_configs": [{"targets": [f"localhost:{port}"]}], **how}


def test_who_is_let_in_and_who_is_not(serve: Serve, folder: Path) -> None:
    (folder / "password").write_text(PASSWORD + "\n")
    (folder / "token").write_text(TOKEN + "\n")
    plain, passwords = serve(TLS).port, serve(TLS + USERS).port
    tokens, mutual = serve(TLS + TOKENS).port, serve(MUTUAL).port
    by_password = {"username": "prometheus", "password_file": "password"}
    https: dict[str, Any] = {"scheme": "https", "tls_config": CA}
    good = [
        job("tls", plain, **https),
        job("password", passwords, **https, basic_auth=by_password),
        job("token", tokens, **https, authorization={"credentials_file": "token"}),
        job("mutual", mutual, scheme="https", tls_config=CLIENT),
    ]
    bad = [
        job("plain HTTP", plain),
        job("unknown CA", plain, scheme="https"),
        job("no password", passwords, **https),
        job("wrong token", tokens, **https, authorization={"credentials": "wrong"}),
        job("no certificate", mutual, **https),
    ]
    with scraping(folder, good + bad) as server:
        found = scraped(server, len(good + bad), len(good))
        assert {name for name, target in found.items() if target.up} == {each["job_name"] for each in good}
        wait_until(lambda: len(server.query("test_steps == 7")) == len(good), WITHIN_S)
    assert "400" in found["plain HTTP"].error
    assert "certificate" in found["unknown CA"].error
    assert "401" in found["no password"].error
    assert any(status in found["wrong token"].error for status in ("401", "429"))
    assert faults.total() == 0


def test_bcrypt_as_other_exporters_have_it(serve: Serve, folder: Path) -> None:
    bcrypt = pytest.importorskip("bcrypt")
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(8)).decode()
    port = serve(TLS + f"basic_auth_users:\n  prometheus: {hashed}\n").port
    how = {
        "scheme": "https",
        "tls_config": CA,
        "basic_auth": {"username": "prometheus", "password": PASSWORD},
    }
    with scraping(folder, [job("bcrypt", port, **how)]) as server:
        assert scraped(server, 1, 1)["bcrypt"].up


def test_a_run_is_found_by_file_sd_with_its_scheme(folder: Path) -> None:
    """A real training whose setting asks for TLS and a password; the job itself says neither scheme nor target."""
    import tiny
    from transformers import TrainerCallback

    from rlhf_otel import TelemetryCallback

    (folder / "web.yaml").write_text(TLS + USERS)
    targets = folder / "targets"
    targets.mkdir()
    how = {"tls_config": CA, "basic_auth": {"username": "prometheus", "password": PASSWORD}}
    discovered = {"job_name": "rlhf", "file_sd_configs": [{"files": [f"{targets}/*.json"]}], **how}
    seen: list[float] = []
    with scraping(folder, [discovered]) as server:

        class Look(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                def there() -> bool:
                    with contextlib.suppress(ServerError):
                        seen.extend(each.value for each in server.query('rlhf_step{run_id="guarded"}'))
                    return bool(seen)

                wait_until(there, WITHIN_S)

        callback = TelemetryCallback(
            run_id="guarded",
            metrics_port=0,
            metrics_web_config=folder / "web.yaml",
            file_sd=targets,
            journal="off",
            linger_s=0,
        )
        tiny.build_trainer(folder, [callback, Look()], max_steps=2).train()
    assert seen
