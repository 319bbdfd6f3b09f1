"""What arrives at Slack, PagerDuty, an e-mail account and a webhook, through the routes of two teams."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from email import message_from_string
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from alerting import alert, send, told
from click.testing import CliRunner
from otlp_receiver import wait_until
from smtp_server import Mailbox

from rlhf_otel.cli import commands
from rlhf_otel.demo.receiver import Receiver
from rlhf_otel.demo.servers import PROGRAMS, Servers, program
from rlhf_otel.errors import ConfigurationError
from rlhf_otel.generate import paging

needs_servers = pytest.mark.skipif(
    not all(program(name) for name in PROGRAMS), reason="prometheus and alertmanager are not installed"
)
WITHIN_S = 60.0
FACTS = {
    "observed": "loss is NaN, usually 0.5, since step 140 (2026-01-01 00:05:00 UTC)",
    "description": "Overflow. What to do: Look.",
    "owner": "ada",
    "state": "still running, at step 160",
    "gpu_hours_at_risk": "12.50",
    "last_good_checkpoint": "step 100",
    "action_taken": "save (done)",
    "board_url": "http://grafana/d/rlhf-run?var-run=a+run&from=1&to=2",
    "trace_url": "http://jaeger/trace/abc",
    "runbook_url": "http://wiki/NonFinite.md",
}
RUN = "a run"
HOSTILE = "<!channel> & <https://evil.example|board> https://evil.example"
"""A run id that would call everybody, and be a link."""

LOCAL = {key: text for key, text in FACTS.items() if not key.endswith("_url")} | {
    "runbook_url": "file:///home/ada/path%20with%20spaces/NonFinite.md"
}
"""As `rlhf-otel up` with programs has them: there is no Grafana, and runbooks are files."""


class Arrived(NamedTuple):
    """What each channel was sent about one alert."""

    slack: dict[str, Any]
    pagerduty: dict[str, Any]
    mail: str
    webhook: dict[str, Any]
    hostile: dict[str, Any]
    """What Slack was sent about a run, team, owner and value with that name."""
    local: list[str]
    """What e-mail and PagerDuty were sent about a run whose links are those of a local stack."""


def secrets(folder: Path, **content: str) -> str:
    (folder / "secrets").mkdir()
    for name, text in content.items():
        (folder / "secrets" / name.replace("_", "-")).write_text(text)
    return str(folder / "secrets")


@pytest.fixture(scope="module")
def arrived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arrived]:
    """A page of the team that has every channel."""
    folder = tmp_path_factory.mktemp("channels")
    receiver, mailbox = Receiver(folder / "traces"), Mailbox()
    url = receiver.start()
    who = paging.Paging.model_validate(
        {
            "secrets": secrets(folder, slack_url=f"{url}/slack", alignment="the-key", smtp_password="pw", tickets="tok"),
            "smtp": {"smarthost": mailbox.address, "from": "alerts@example.org", "require_tls": False},
            "pagerduty_url": f"{url}/pagerduty",
            "default": {"page": [{"webhook": f"{url}/page"}], "ticket": [{"webhook": f"{url}/ticket"}]},
            "teams": {
                "alignment": {
                    "page": [
                        {"slack": "#rlhf"}, {"pagerduty": "alignment"}, {"email": "ada@example.org"},
                        {"webhook": f"{url}/hook", "token": "tickets"},
                    ]
                }
            },
            "watchdog": [{"webhook": f"{url}/watchdog"}],
        }
    )  # fmt: skip
    servers = Servers(folder, [], url, replicas=0, who=who)
    try:
        servers.start()
        both = [alert("NonFinite", RUN, engine, FACTS, team="alignment") for engine in ("verdict", "level")]
        send(servers.started[0].url, *both, alert("NonFinite", "elsewhere", team="unknown"))
        send(servers.started[0].url, alert("NonFinite", "local", "verdict", LOCAL, team="alignment"))

        hostile = alert("NonFinite", HOSTILE, "verdict", FACTS | {"owner": HOSTILE, "observed": HOSTILE})
        hostile["labels"]["team"] = "alignment"
        send(servers.started[0].url, hostile)

        def of(name: str) -> list[dict[str, Any]]:
            return [note.body for note in receiver.notifications if note.receiver == name]

        def about(run_id: str, sent: list[Any]) -> list[str]:
            texts = [each if isinstance(each, str) else json.dumps(each) for each in sent]
            return [text for text in texts if run_id in text]

        def local() -> list[str]:
            return [*about("Run local:", mailbox.mails), *about("Run local:", of("pagerduty"))]

        wait_until(lambda: all(map(of, ("slack", "hook", "page"))) and len(local()) == 2, WITHIN_S)
        wait_until(lambda: len(mailbox.mails) == len(of("pagerduty")) == len(of("slack")) == 3, WITHIN_S)
        assert told(receiver.notifications, "page", "elsewhere") == [
            ["NonFinite"]
        ]  # a team that nobody knows
        first = {
            name: [body for body in of(name) if RUN in json.dumps(body)]
            for name in ("slack", "pagerduty", "hook")
        }
        mail = about(f"Run {RUN}:", mailbox.mails)[0]
        hostile_slack = next(body for body in of("slack") if "!channel" in json.dumps(body))
        yield Arrived(
            first["slack"][0], first["pagerduty"][0], mail, first["hook"][0], hostile_slack, local()
        )
    finally:
        servers.stop()
        receiver.stop()
        mailbox.close()


SAID = (
    "loss is NaN, usually 0.5, since step 140", "team alignment", "owner ada", "still running, at step 160", "12.50",
    "step 100", "save (done)", "What to do: Look.",
)  # fmt: skip
LINKS = ("http://jaeger/trace/abc", "http://wiki/NonFinite.md", "/silences/new?filter=")


@needs_servers
@pytest.mark.servers
def test_slack_says_everything_once(arrived: Arrived) -> None:
    assert arrived.slack["channel"] == "#rlhf"
    (attachment,) = arrived.slack["attachments"]
    assert "is NaN or infinite: loss is NaN, usually 0.5" in attachment["title"]
    for part in (*SAID, *LINKS):
        assert (attachment["title"] + attachment["text"]).count(part) == 1, part
    for name in ("Board", "Trace", "Runbook"):
        address = FACTS[f"{name.lower()}_url"].replace("&", "&amp;")
        assert f"<{address}|{name}>\n" in attachment["text"]


@needs_servers
@pytest.mark.servers
def test_a_name_neither_calls_the_channel_nor_becomes_a_link(arrived: Arrived) -> None:
    """Slack reads all of its marks within angle brackets; those left are of our own links."""
    (attachment,) = arrived.hostile["attachments"]
    title, text = attachment["title"], attachment["text"]
    assert "<!" not in json.dumps(arrived.hostile), "in no other field either"
    assert "<" not in title
    assert "&lt;!channel&gt; &amp; &lt;https:" in title
    marks = re.findall("<([^>]*)>", text)
    assert [mark.partition("|")[2] for mark in marks] == ["Board", "Trace", "Runbook", "Silence this run"]
    assert (
        title.count("&lt;!channel&gt;") == text.count("&lt;!channel&gt;") == 2
    )  # run and value; run and owner
    said = re.sub("<[^>]*>", "", text)
    assert "https://" not in said + title
    assert "https:\u200b//evil.example" in said


@needs_servers
@pytest.mark.servers
def test_pagerduty_says_everything(arrived: Arrived) -> None:
    assert arrived.pagerduty["routing_key"] == "the-key"
    payload = arrived.pagerduty["payload"]
    assert payload["severity"] == "critical"
    assert "loss is NaN, usually 0.5" in payload["summary"]
    for part in SAID:
        assert part in payload["custom_details"]["firing"], part
    assert payload["custom_details"]["owner"] == "ada"
    assert "annotations" not in json.dumps(payload).lower(), "no heap of labels that hides what is said"
    links = {link["text"]: link["href"] for link in arrived.pagerduty["links"]}
    assert (
        links.items()
        >= {name: FACTS[f"{name.lower()}_url"] for name in ("Board", "Trace", "Runbook")}.items()
    )


@needs_servers
@pytest.mark.servers
def test_an_email_says_everything(arrived: Arrived) -> None:
    parts = [part for part in message_from_string(arrived.mail).walk() if not part.is_multipart()]
    text, html = (bytes(part.get_payload(decode=True)).decode() for part in parts)
    for said in (*SAID, *LINKS):
        assert said in text, said
        assert said in html.replace("&#43;", "+"), said
    assert "<table>" in html


@needs_servers
@pytest.mark.servers
def test_no_link_is_dead_where_there_is_no_grafana(arrived: Arrived) -> None:
    """An e-mail names a file instead of a link that its reader would refuse; what is not there is not linked."""
    mail, page = arrived.local
    (html,) = [
        bytes(part.get_payload(decode=True)).decode()
        for part in message_from_string(mail).walk()
        if part.get_content_type() == "text/html"
    ]
    assert LOCAL["runbook_url"] in html
    assert "ZgotmplZ" not in html
    assert html.count("<a href=") == 1  # the silence
    links = {link["text"]: link["href"] for link in json.loads(page)["links"]}
    assert links.keys() == {"Silence this run", "Runbook"}


@needs_servers
@pytest.mark.servers
def test_a_webhook_gets_all_annotations(arrived: Arrived) -> None:
    annotations = arrived.webhook["alerts"][0]["annotations"]
    assert annotations.items() >= FACTS.items()


@needs_servers
@pytest.mark.servers
def test_the_silence_is_ready_made(arrived: Arrived) -> None:
    """As Alertmanager's page reads it: the filter, percent-encoded, after the fragment's question mark."""
    (href,) = (link["href"] for link in arrived.pagerduty["links"] if link["text"].startswith("Silence"))
    route, _, query = urlsplit(href).fragment.partition("?")
    assert route == "/silences/new"
    assert "+" not in query
    assert parse_qs(query)["filter"] == [json.dumps({"run_id": RUN}).replace('"run_id": ', "run_id=")]


# --- the file that says who is told


def write(folder: Path, text: str) -> Path:
    (folder / "paging.yaml").write_text(text)
    return folder / "paging.yaml"


VALID = """
secrets: /run/secrets
default: {page: [{pagerduty: on-call}], ticket: [{slack: "#rlhf"}]}
teams: {infra: {page: [{webhook: "http://pager/infra"}]}}
"""


@pytest.mark.servers
def test_routes_are_by_team_and_severity(tmp_path: Path) -> None:
    command = ["generate", "--out", str(tmp_path), "--paging", str(write(tmp_path, VALID))]
    done = CliRunner().invoke(commands, command)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "alertmanager.yml").read_text()
    receivers = {each["name"]: each for each in yaml.safe_load(text)["receivers"]}
    assert receivers["page"]["pagerduty_configs"][0]["routing_key_file"] == "/run/secrets/on-call"
    for labels, receiver in (
        (("severity=critical", "team=infra"), "infra-page"),
        (("severity=critical", "team=other"), "page"),
        (("severity=warning", "team=infra"), "infra-ticket"),
        (("severity=warning",), "ticket"),
        (("severity=info", "team=infra"), "nobody"),
        (("severity=info", "alertname=RLHFWatchdog"), "watchdog"),
    ):
        route = ["amtool", "config", "routes", "test", "--config.file", str(tmp_path / "alertmanager.yml")]
        done_ = subprocess.run([*route, "run_id=r", *labels], capture_output=True, text=True, check=True)
        assert done_.stdout.strip() == receiver


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("default: {page: []}", "default.page"),
        ("default: {page: [{slack: a, email: b}]}", "exactly one of"),
        ("default: {page: [{email: a@b}]}", "smtp"),
        ("default: {page: [{slack: a, token: b}]}", "token belongs to a webhook"),
        ("default: {page: [{slack: a}]}\nchanel: b", "chanel"),
        ("a: [", "not YAML"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        paging.load(write(tmp_path, text))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        paging.load(tmp_path / "nowhere")


def test_no_secret_stands_in_a_configuration(tmp_path: Path) -> None:
    """Whatever Alertmanager would take in place is named by a file instead."""
    content = yaml.safe_load(
        (Path(__file__).parent.parent.parent / "deploy/alertmanager-teams.yml").read_text()
    )
    keys: set[str] = set()

    def walk(node: Any) -> None:
        for key, value in node.items() if isinstance(node, dict) else ():
            keys.add(key)
            walk(value)
        for value in node if isinstance(node, list) else ():
            walk(value)

    walk(content)
    assert {"routing_key_file", "api_url_file", "smtp_auth_password_file", "credentials_file"} <= keys
    assert not keys & {
        "routing_key",
        "service_key",
        "api_url",
        "smtp_auth_password",
        "credentials",
        "password",
    }
