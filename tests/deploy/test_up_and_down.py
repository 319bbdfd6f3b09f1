"""``rlhf-otel up`` and ``down`` with the programs of this machine, and a run that is seen by what they started."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import yaml
from click.testing import CliRunner, Result
from otlp_receiver import free_port, wait_until

from rlhf_otel.cli import commands
from rlhf_otel.demo.servers import PROGRAMS, program
from rlhf_otel.drill.target import Marked, exposed
from rlhf_otel.errors import ConfigurationError, StackError
from rlhf_otel.servers.http import get_json
from rlhf_otel.servers.prometheus import Prometheus
from rlhf_otel.stack import containers

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        not all(program(name) for name in PROGRAMS), reason="prometheus and alertmanager are not installed"
    ),
]

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
WITHIN_S = 90.0


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(commands, [str(argument) for argument in arguments])


def pids(folder: Path) -> list[int]:
    return [each["pid"] for each in json.loads((folder / "stack.json").read_text())["programs"]]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "stack"
    command("down", "--dir", tmp_path / "stack")


def up(folder: Path, *more: str | Path) -> tuple[Result, int, int]:
    ports = free_port(), free_port()
    named = ("--prometheus-port", str(ports[0]), "--alertmanager-port", str(ports[1]))
    return command("up", "--with", "programs", "--dir", folder, *named, *more), *ports


def test_up_shows_a_run_and_down_leaves_nothing(folder: Path) -> None:
    port = free_port()
    done, prometheus_port, pager_port = up(folder, "--target", f"localhost:{port}")
    assert done.exit_code == 0, done.output
    server = Prometheus(f"http://localhost:{prometheus_port}")
    assert server.alertmanagers()  # at once: a doctor that is asked now finds everything
    assert server.targets()
    assert f"{server.url}\n" in done.output
    with exposed(Marked("here", "info", ""), "localhost", port, None):
        wait_until(lambda: server.query('rlhf_anomaly_active{run_id="here"}'), WITHIN_S)
    assert server.alertmanagers() == [f"http://localhost:{pager_port}"]

    # What runs is what deploy/ ships, but for addresses.
    running = yaml.safe_load(get_json(server.url, "/api/v1/status/config")["data"]["yaml"])
    shipped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    (mine,), (theirs,) = running["scrape_configs"], shipped["scrape_configs"]
    assert {key: mine[key] for key in theirs.keys() - {"static_configs"}} == {
        key: theirs[key] for key in theirs.keys() - {"static_configs"}
    }
    assert running["global"] == shipped["global"]
    names = [[Path(path).name for path in config["rule_files"]] for config in (running, shipped)]
    assert names[0] == names[1], "the recording rules among them"
    pager = yaml.safe_load(get_json(f"http://localhost:{pager_port}", "/api/v2/status")["config"]["original"])
    assert pager["inhibit_rules"]
    for rule in yaml.safe_load((folder / "rlhf.rules.yaml").read_text())["groups"][0]["rules"]:
        assert Path(urlsplit(rule["annotations"]["runbook_url"]).path).is_file()  # a link that opens
        assert "board_url" not in rule["annotations"]  # without Grafana there would be none
    assert (folder / "templates/rlhf.tmpl").read_text() == (DEPLOY / "templates/rlhf.tmpl").read_text()

    flags = get_json(server.url, "/api/v1/status/flags")["data"]
    assert flags["web.external-url"] == server.url  # or links would name this host, where nobody listens

    again = command("up", "--with", "programs", "--dir", folder, "--target", "localhost:1")
    assert "already up, as it was started" in again.output
    started = pids(folder)
    done = command("down", "--dir", folder)
    assert done.exit_code == 0
    assert done.output.count("stopped") == 2
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in started)
    assert "nothing was started" in command("down", "--dir", folder).output


def test_a_stack_of_which_a_part_has_ended_is_started_anew(folder: Path) -> None:
    assert up(folder)[0].exit_code == 0
    first = pids(folder)
    psutil.Process(first[0]).kill()
    wait_until(lambda: psutil.Process(first[0]).status() == "zombie", WITHIN_S)
    done = up(folder)[0]
    assert done.exit_code == 0
    assert not set(first) & set(pids(folder))


def test_a_taken_port_is_named_and_nothing_is_left(folder: Path, tmp_path: Path) -> None:
    done, prometheus_port, _ = up(folder)
    assert done.exit_code == 0
    other = tmp_path / "other"
    done = command("up", "--with", "programs", "--dir", other, "--prometheus-port", str(prometheus_port))
    assert isinstance(done.exception, StackError)
    assert f"port {prometheus_port} is taken, which prometheus was to have" in str(done.exception)
    assert not (other / "stack.json").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--prometheus-port", "9", "--alertmanager-port", "9"), "cannot both have port 9"),
        (("--target", "http://localhost:9464/metrics"), "is not a valid hostname"),
        (("--paging", "paging.yaml"), "secrets/slack-url is missing"),
    ],
)
def test_what_cannot_be_started_is_said_in_one_sentence(
    folder: Path, more: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("paging.yaml").write_text(f"secrets: {tmp_path}/secrets\ndefault: {{page: [{{slack: '#a'}}]}}\n")
    before = psutil.Process().children()
    done = up(folder, *more)[0]
    assert isinstance(done.exception, StackError | ConfigurationError)
    assert said in str(done.exception)
    assert "\n" not in str(done.exception)
    assert psutil.Process().children() == before
    assert not (folder / "stack.json").exists()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a home that cannot be written."""
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    done = command("up", "--with", "programs")
    assert isinstance(done.exception, StackError)
    assert "--dir takes another" in str(done.exception)


def test_a_stack_file_that_was_cut_off_says_what_to_do(folder: Path) -> None:
    folder.mkdir()
    (folder / "stack.json").write_text('{"compose"')
    for word in ("up", "down"):
        done = command(word, "--dir", folder)
        assert isinstance(done.exception, StackError)
        assert "remove that file" in str(done.exception)
    (folder / "stack.json").unlink()


def test_a_target_is_listed_or_registered(folder: Path, tmp_path: Path) -> None:
    done = up(folder, "--target", "localhost:1", "--file-sd", tmp_path)[0]
    assert done.exit_code == 2
    assert "scraped twice" in done.output


def test_doctor_and_drill_know_what_was_started(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a run has the usual port, too: the drill registers a port of its own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "path with spaces"))
    ports = ("--prometheus-port", str(free_port()), "--alertmanager-port", str(free_port()))
    try:
        assert command("up", "--with", "programs", *ports).exit_code == 0
        address = f"http://localhost:{ports[1]}"
        monkeypatch.setenv("RLHF_OTEL_METRICS_PORT", str(free_port()))
        found = json.loads(command("doctor", "--json").output)["findings"]
        said = {each["check"]: each["said"] for each in found}
        assert said["prometheus"] == f"{address} answers"
        assert said["recording rules"].startswith("all ")
        assert said["exemplars"] == "stored"
        legs = json.loads(command("drill", "--json").output)["legs"]
        assert [leg["name"] for leg in legs if leg["reached"]] == ["scraped", "fired", "routed"]
        assert "without any channel" in legs[-1]["said"]
        assert legs[-1]["seconds"] < 30  # known at once, and not after --timeout
    finally:
        command("down")


def test_down_ends_no_process_that_merely_has_the_same_id(tmp_path: Path) -> None:
    mine = psutil.Process()
    stranger = {"name": "prometheus", "url": "", "pid": mine.pid, "born_s": mine.create_time() - 1000}
    (tmp_path / "stack.json").write_text(json.dumps({"compose": "", "programs": [stranger]}))
    assert "had ended already" in command("down", "--dir", tmp_path).output


# --- with Docker; the program itself is not run here


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program ``docker`` that writes down how it is called."""
    calls = tmp_path / "calls"
    fake = tmp_path / "bin" / "docker"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=":")
    return calls


def test_with_docker_compose_starts_and_stops_everything(docker: Path, tmp_path: Path) -> None:
    done = command("up", "--root", DEPLOY.parent, "--dir", tmp_path / "stack")
    assert done.exit_code == 0, done.output
    assert "http://localhost:3000" in done.output
    assert command("down", "--dir", tmp_path / "stack", "--volumes").exit_code == 0
    file = (DEPLOY / "compose.yaml").resolve()
    assert docker.read_text().splitlines()[-2:] == [
        f"compose --file {file} up --detach --wait",
        f"compose --file {file} down --volumes",
    ]


def test_with_docker_too_a_file_says_who_is_told(docker: Path, tmp_path: Path) -> None:
    calls = docker.parent / "bin/docker"
    calls.write_text(f'#!/bin/sh\necho "$RLHF_OTEL_ALERTMANAGER:$RLHF_OTEL_SECRETS" >> {docker}\n')
    stack, secrets = tmp_path / "stack", tmp_path / "secrets"
    secrets.mkdir()
    file = tmp_path / "paging.yaml"
    file.write_text(f"secrets: {secrets}\ndefault: {{page: [{{pagerduty: on-call}}]}}\n")
    words = ("up", "--root", DEPLOY.parent, "--dir", stack, "--paging", file)
    assert "on-call is missing" in str(command(*words).exception)
    (secrets / "on-call").write_text("key")
    assert command(*words).exit_code == 0
    assert docker.read_text().splitlines()[-1] == f"{stack / 'alertmanager.yml'}:{secrets}"
    receivers = yaml.safe_load((stack / "alertmanager.yml").read_text())["receivers"]
    assert receivers[0]["pagerduty_configs"][0]["routing_key_file"] == "/etc/alertmanager/secrets/on-call"
    mounted = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["alertmanager"]["volumes"]
    for variable in ("RLHF_OTEL_ALERTMANAGER", "RLHF_OTEL_SECRETS"):
        assert any(volume.startswith(f"${{{variable}:-") for volume in mounted)


def test_what_containers_cannot_do_is_refused(docker: Path, tmp_path: Path) -> None:
    done = command("up", "--root", DEPLOY.parent, "--dir", tmp_path / "stack", "--prometheus-port", "9091")
    assert done.exit_code == 2
    assert "--with programs" in done.output


def test_a_docker_without_a_daemon_is_none(docker: Path) -> None:
    assert containers.available()
    (docker.parent / "bin/docker").write_text('#!/bin/sh\n[ "$1" != info ]\n')
    assert not containers.available()


def test_without_a_checkout_containers_cannot_be_started(docker: Path, tmp_path: Path) -> None:
    done = command("up", "--with", "docker", "--root", tmp_path, "--dir", tmp_path / "stack")
    assert isinstance(done.exception, StackError)
    assert "--root" in str(done.exception)


def test_a_docker_without_compose_is_named(docker: Path, tmp_path: Path) -> None:
    (docker.parent / "bin/docker").write_text('#!/bin/sh\n[ "$1" != compose ]\n')
    done = command("up", "--with", "docker", "--root", DEPLOY.parent, "--dir", tmp_path / "stack")
    assert isinstance(done.exception, StackError)
    assert "--with programs" in str(done.exception)
