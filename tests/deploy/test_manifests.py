"""What ``deploy/`` ships, against the schemas of those who read it; and what it promises of security."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf_otel.catalogue.spans import Attribute
from rlhf_otel.exporters.sampling import Reason
from rlhf_otel.settings import METRICS_PORT

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
KUSTOMIZATIONS = [DEPLOY / "kubernetes", DEPLOY / "collector", ROOT / "alerts", ROOT / "grafana"]
CUSTOM = {"PodMonitor", "PrometheusRule"}
LATEST_TESTED = "1.30"
"""Of Kubernetes; the resources used are older."""


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every resource that the kustomization has, and the sample job."""
    paths = [DEPLOY / "kubernetes/training-job.yaml"]
    for folder in KUSTOMIZATIONS:
        named = documents(folder / "kustomization.yaml")[0].get("resources", ())
        paths += [folder / name for name in named if name.endswith(".yaml")]
    for path in paths:
        for content in documents(path):
            yield f"{path.name}:{content['kind']}:{content['metadata']['name']}", content
    for content in boards():
        yield f"{content['kind']}:{content['metadata']['name']}", content


def boards() -> Iterator[dict[str, Any]]:
    """The ConfigMaps that kustomize makes."""
    kustomization = documents(ROOT / "grafana/kustomization.yaml")[0]
    options = kustomization["generatorOptions"]
    for each in kustomization["configMapGenerator"]:
        files = [ROOT / "grafana" / name for name in each["files"]]
        yield {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": each["name"],
                "labels": options["labels"],
                "annotations": options["annotations"],
            },
            "data": {path.name: path.read_text(encoding="utf-8") for path in files},
        }


MANIFESTS = dict(manifests())
COMPOSE = documents(DEPLOY / "compose.yaml")[0]
COLLECTOR = documents(DEPLOY / "collector/collector.yaml")[0]


# --- schemas


def test_compose_follows_its_specification() -> None:
    pytest.importorskip("check_jsonschema")
    jsonschema = pytest.importorskip("jsonschema")
    schema = resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    jsonschema.validate(COMPOSE, json.loads(schema.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", [name for name, each in MANIFESTS.items() if each["kind"] not in CUSTOM])
def test_a_resource_of_kubernetes_follows_its_schema(name: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(MANIFESTS[name], LATEST_TESTED, strict=True)


@pytest.mark.parametrize("name", [name for name, each in MANIFESTS.items() if each["kind"] in CUSTOM])
def test_a_resource_of_the_operator_follows_its_definition(name: str) -> None:
    models = pytest.importorskip("cloudcoil.models.prometheus_operator.v1")
    content = MANIFESTS[name]
    read = getattr(models, content["kind"]).model_validate(content)
    kept = read.model_dump(by_alias=True, exclude_unset=True, mode="json")
    assert kept["spec"] == content["spec"]  # an unknown field would have been dropped


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_kustomization_names_what_exists_below_it(folder: Path) -> None:
    content = documents(folder / "kustomization.yaml")[0]
    for name in content.get("resources", ()):
        path = folder / name
        assert path.is_file() or (path / "kustomization.yaml").is_file(), name
        assert path.is_dir() or ".." not in name, f"{name}: kustomize reads no file from outside"
    for generator in content.get("configMapGenerator", ()):
        assert all((folder / name).is_file() for name in generator["files"])


@pytest.mark.servers
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-ranks.yml"])
def test_promtool_accepts_the_configurations(name: str) -> None:
    done = subprocess.run(
        ["promtool", "check", "config", DEPLOY / name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.servers
@pytest.mark.skipif(shutil.which("amtool") is None, reason="amtool is not installed")
@pytest.mark.parametrize("name", ["alertmanager.yml", "alertmanager-teams.yml"])
def test_amtool_accepts_the_configurations(name: str) -> None:
    done = subprocess.run(
        ["amtool", "check-config", DEPLOY / name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 templates" in done.stdout


def test_the_batch_script_is_one() -> None:
    path = DEPLOY / "slurm/train.sbatch"
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text(encoding="utf-8")
    options = re.findall(r"^#SBATCH (--[\w-]+)=?", text, re.MULTILINE)
    assert {"--nodes", "--signal", "--requeue"} <= set(options)
    assert text.index("#SBATCH --signal") < text.index(
        "set -euo"
    )  # Slurm stops reading options at the first command


# --- boards


def test_each_board_is_a_config_map_that_a_cluster_takes() -> None:
    found = list(boards())
    files = {path.name for path in (ROOT / "grafana/dashboards").glob("*.json")}
    assert sorted(name for each in found for name in each["data"]) == sorted(files)
    assert all(len(json.dumps(each)) < 2**20 for each in found)  # what etcd takes
    assert "../../grafana" in documents(DEPLOY / "kubernetes/kustomization.yaml")[0]["resources"]


# --- compose


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_container_is_pinned_and_has_no_rights(name: str) -> None:
    service = COMPOSE["services"][name]
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])
    assert service["cap_drop"] == ["ALL"]
    if name == "tempo-volume":  # hands a volume over and ends
        assert service["network_mode"] == "none"
        return
    assert service["user"].split(":")[0] not in ("0", "root")
    assert service["read_only"]


def test_everything_listens_on_loopback_alone() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8") + (DEPLOY / "tempo.yaml").read_text(
        encoding="utf-8"
    )
    assert "0.0.0.0" not in text
    services = COMPOSE["services"]
    for name in ("prometheus", "alertmanager"):
        assert any("--web.listen-address=127.0.0.1:" in option for option in services[name]["command"])
    assert services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert services["collector"]["environment"]["LISTEN_ADDRESS"] == "127.0.0.1"


def test_there_is_no_password() -> None:
    environment = COMPOSE["services"]["grafana"]["environment"]
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert not any("PASSWORD" in name for name in environment)


@pytest.mark.parametrize("name", ["prometheus", "alertmanager", "grafana"])
def test_a_container_with_a_shell_has_a_health_check(name: str) -> None:
    assert COMPOSE["services"][name]["healthcheck"]["test"][0] == "CMD"


def test_what_is_mounted_is_there() -> None:
    for service in COMPOSE["services"].values():
        for volume in service.get("volumes", ()):
            source = re.sub(r"^\$\{\w+:-(.+?)\}", r"\1", volume).split(":")[0]
            if source.startswith("../grafana") and not (ROOT / "grafana").is_dir():
                continue  # generated where the boards' extra is installed
            if source == "/dev/null":  # nothing, unless a variable says otherwise
                continue
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
            else:
                assert source in COMPOSE["volumes"]


# --- scraping


def test_each_scrape_has_a_limit() -> None:
    for name in ("prometheus.yml", "prometheus-ranks.yml"):
        assert all(job["sample_limit"] for job in documents(DEPLOY / name)[0]["scrape_configs"])
    assert MANIFESTS["podmonitor.yaml:PodMonitor:rlhf-otel"]["spec"]["sampleLimit"]


def test_the_job_is_what_monitor_and_policy_select() -> None:
    job = MANIFESTS["training-job.yaml:Job:grpo-example"]["spec"]["template"]
    monitor = MANIFESTS["podmonitor.yaml:PodMonitor:rlhf-otel"]["spec"]
    policy = MANIFESTS["networkpolicy.yaml:NetworkPolicy:rlhf-otel-training"]["spec"]
    labels = job["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert set(monitor["podTargetLabels"]) <= labels.keys()
    (container,) = job["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports.keys() <= {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]}
    assert all(endpoint["honorLabels"] for endpoint in monitor["podMetricsEndpoints"])
    (allowed,) = policy["ingress"][0]["ports"]
    assert list(ports.values()) == [METRICS_PORT, METRICS_PORT + 1]
    assert allowed["port"] == METRICS_PORT
    assert allowed["endPort"] == METRICS_PORT + len(monitor["podMetricsEndpoints"]) - 1
    assert "livenessProbe" not in container


def test_a_restarted_job_goes_on_under_its_run_id() -> None:
    """`torchrun --standalone` makes up an id each time, which would be that of a run of its own."""
    (container,) = MANIFESTS["training-job.yaml:Job:grpo-example"]["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert "--standalone" in container["command"]
    assert environment["RLHF_OTEL_RUN_ID"] == "grpo-example"


def test_a_kustomization_holds_nothing_twice() -> None:
    """Two resources of one kind and name are an error of kustomize."""
    names = [(each["kind"], each["metadata"]["name"]) for each in MANIFESTS.values()]
    assert len(names) == len(set(names))


# --- collector


def test_the_pipelines_name_components_that_are_configured() -> None:
    service = COLLECTOR["service"]
    assert set(service["extensions"]) == COLLECTOR["extensions"].keys()
    for pipeline in service["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= COLLECTOR[kind].keys()
        assert pipeline["processors"][0] == "memory_limiter"
        assert pipeline["processors"][-1] == "batch"


def test_sampling_knows_the_reasons_that_spans_carry() -> None:
    policies = {policy["name"]: policy for policy in COLLECTOR["processors"]["tail_sampling"]["policies"]}
    telling = policies["telling"]["string_attribute"]
    assert telling["key"] == Attribute.KEPT_BECAUSE
    assert set(telling["values"]) == {reason.value for reason in Reason} - {Reason.HEALTHY.value}
    assert policies["checkpoints"]["string_attribute"]["key"] == Attribute.CHECKPOINT_PATH
