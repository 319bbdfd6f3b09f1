"""Settings of the callback: by argument, by environment, by YAML file, in that order.

The environment has ``RLHF_OTEL_<FIELD>`` for every field, and the standard OpenTelemetry variables where
there is one. The YAML file is named by the argument or variable ``config``. An unknown key, a wrong type or
an impossible value is a :class:`~rlhf_otel.errors.ConfigurationError` at construction.
"""

from __future__ import annotations

import os
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from rlhf_otel import traces_sampler, web_config, yaml_limits
from rlhf_otel.action_settings import ActionSettings
from rlhf_otel.catalogue.rules import Rule
from rlhf_otel.detection.rule_text import nearest
from rlhf_otel.errors import ConfigurationError
from rlhf_otel.rule_files import rules_of

PREFIX: Final = "RLHF_OTEL_"
OF_THE_BUILD: Final = "RLHF_OTEL_PURE"
"""No setting: an image may still have it from when the package was built (deploy/build_kernel.py)."""

STANDARD_VARIABLES: Final[dict[str, str]] = {
    "metrics_host": "OTEL_EXPORTER_PROMETHEUS_HOST",
    "metrics_port": "OTEL_EXPORTER_PROMETHEUS_PORT",
}
"""Fields that OpenTelemetry has a variable for; ``RLHF_OTEL_*`` wins over it."""


SECRET: Final = frozenset({"webhook_secret", "actions"})
"""Fields whose value is never shown: of a webhook the URL can be a secret."""


METRICS_PORT: Final = 9464
"""OpenTelemetry's port for Prometheus exporters."""


class Settings(BaseModel):
    """What can be set. Every field has an effect, or is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    run_id: str | None = Field(
        None, min_length=1, max_length=200, description="Identity of the run on every series."
    )
    run_name: str | None = Field(None, max_length=200, description="Name for people.")
    team: str = Field("", max_length=100, description="Team that owns the run; routes its alerts.")
    owner: str = Field("", max_length=100, description="Person who is asked about the run.")
    cluster: str = Field(
        "", max_length=100, description="Cluster that runs it: a label of its scrape target."
    )
    metrics_host: str = Field("localhost", min_length=1, description="Address that /metrics listens on.")
    metrics_port: int | Literal["off"] = Field(
        METRICS_PORT,
        description="Port of /metrics; the local rank is added. 0 takes a free one, 'off' serves nothing.",
    )
    metrics_web_config: Path | None = Field(
        None,
        description="File with TLS, client certificates, passwords and tokens for /metrics, in the form of Prometheus' "
        "exporters (`--web.config.file`): [security](security.md).",
    )
    metrics_allowed_hosts: tuple[str, ...] = Field(
        (),
        description="Names, beside this machine's own, under which /metrics may be asked; a variable has them with commas. "
        "On loopback others are refused (DNS rebinding); elsewhere only if this is set.",
    )
    file_sd: Path | None = Field(
        None, description="Directory for Prometheus' file_sd: each rank keeps its target in a file there."
    )
    push_interval_s: Annotated[float, Field(ge=1, le=300)] | Literal["off"] = Field(
        "off",
        description="Seconds between pushes of the metrics by OTLP, to the endpoint of OTEL_EXPORTER_OTLP_*; "
        "'off' pushes nothing. Experimental.",
    )
    journal: Path | Literal["off"] | None = Field(
        None, description="Directory of the journal; by default 'rlhf_otel' in the trainer's output_dir."
    )
    samples: Literal["on", "off"] = Field(
        "on",
        description="Signals of single completions (repetition, length bias, ...); no text leaves the process.",
    )
    checkpoints: Literal["on", "off"] = Field(
        "on",
        description="Analysis of each saved checkpoint, in a process of idle priority: "
        "[checkpoints](checkpoints.md).",
    )
    device_times: Literal["on", "off"] = Field(
        "on",
        description="Whether phases are timed on the GPU too, by CUDA events, where training is on one: [traces](traces.md).",
    )
    report: Literal["on", "off"] = Field(
        "off",
        description="Whether [reports](reports.md) are written beside the journal when the run ends; needs the extra "
        "`[report]`.",
    )
    trace_one_in: int = Field(
        100,
        ge=1,
        description="One in so many healthy steps is kept as a trace; OTEL_TRACES_SAMPLER says so too.",
    )
    stall_floor_s: float = Field(
        60.0, gt=0, description="Seconds without a step that never count as a stall."
    )
    stall_multiple: float = Field(
        3.0,
        gt=1,
        description="Multiple of the usual step (99th percentile, slowest kind) that counts as a stall.",
    )
    stall_patience_s: float = Field(
        1800.0,
        gt=0,
        description="Seconds that an evaluation, a checkpoint, the first step, which compiles, and what follows the last "
        "one may take at least; of the first two also `stall_multiple` times the longest so far.",
    )
    stall_stacks: Literal["on", "off"] = Field(
        "on",
        description="Stacks of all threads at a stall, in a file beside the journal and at `/stacks`. They need "
        "faulthandler's one timer: [stalls](stalls.md).",
    )
    linger_s: float = Field(
        60.0,
        ge=0,
        le=600,
        description="Seconds, at most, that a process stays after the end of training until Prometheus knows. Its other "
        "waits are listed in docs/settings.md.",
    )
    system_interval_s: float = Field(
        5.0, ge=0.5, description="Seconds between readings of GPU, host and allocator."
    )

    profile_signal: Literal["off", "SIGUSR1", "SIGUSR2"] = Field(
        "off",
        description="Signal at which the next steps are profiled; `rlhf-otel profile` needs none: "
        "[profiling](profiling.md).",
    )

    rules: Path | dict[str, Any] | tuple[InstanceOf[Rule], ...] | None = Field(
        None,
        description="File that disables, tunes and adds rules, see [rules of your own](rules-tuning.md). The "
        "configuration file can hold it under this key itself.",
    )
    actions: tuple[ActionSettings, ...] = Field(
        (),
        description="What to do when a rule fires: a list, see [actions](actions.md). A variable holds it as YAML.",
    )
    webhook_secret: SecretStr | None = Field(
        None, description="Key with which the webhooks of `actions` are signed (HMAC-SHA256)."
    )

    guard: Literal["off", "drop"] = Field(
        "off",
        description="Whether an update from gradients that are not finite is dropped: [guard](guard.md).",
    )
    guard_content: Literal["numbers", "tokens", "text"] = Field(
        "numbers",
        description="What a bundle of the guard holds: numbers alone, token ids and weights too (a replay needs them), "
        "or the texts as well.",
    )
    guard_bundles: int = Field(
        3, ge=0, le=1000, description="Bundles that a rank writes in one run, at most."
    )
    guard_bundle_mib: float = Field(512.0, gt=0, description="Size of one bundle in MiB, at most.")

    @cached_property
    def rule_set(self) -> tuple[Rule, ...]:
        """The rules that the run is judged by. Raises ConfigurationError."""
        return rules_of(self.rules)

    @cached_property
    def web(self) -> web_config.WebConfig:
        """What ``metrics_web_config`` says. Raises ConfigurationError."""
        path = self.metrics_web_config
        return web_config.load(path) if path is not None else web_config.WebConfig()

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any) -> Any:
        """Nothing here is true or false, which would else pass as the numbers 1 and 0."""
        if isinstance(value, bool):
            raise PydanticCustomError("truth_value", "Input should not be true or false")
        return value

    @field_validator("metrics_allowed_hosts", mode="before")
    @classmethod
    def _comma_list(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("actions", mode="before")
    @classmethod
    def _yaml_list(cls, value: Any) -> Any:
        """A variable can hold text alone."""
        if not isinstance(value, str):
            return value
        try:
            return yaml_limits.load(value)
        except yaml.YAMLError as error:
            said = {"error": yaml_limits.problem(error)}
            raise PydanticCustomError("yaml", "Input is not YAML: {error}", said) from None

    @field_validator(
        "metrics_port",
        "push_interval_s",
        "journal",
        "samples",
        "checkpoints",
        "device_times",
        "report",
        "stall_stacks",
        "guard",
        "profile_signal",
        mode="before",
    )
    @classmethod
    def _yaml_off(cls, value: Any) -> Any:
        """YAML reads a bare ``off`` as false. (Runs first: validators before go from last to first.)"""
        return "off" if value is False else value

    @field_validator("samples", "checkpoints", "device_times", "report", "stall_stacks", mode="before")
    @classmethod
    def _yaml_on(cls, value: Any) -> Any:
        """... and a bare ``on`` as true."""
        return "on" if value is True else value


def load(config: str | Path | None = None, **arguments: Any) -> Settings:
    """Settings from arguments, environment and file. Raises ConfigurationError."""
    given = {key: value for key, value in arguments.items() if value is not None}
    environment, variables = _environment()
    path = config or environment.get("config")
    environment.pop("config", None)
    file = _file(path) if path else {}
    merged = {**file, **environment, **given}
    origin = {**dict.fromkeys(file, f"file {path}"), **variables, **dict.fromkeys(given, "argument")}
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, merged, origin)) from None
    _check_port(settings)
    _ = settings.web
    _check_actions(settings)
    _check_report(settings)
    return settings


def _check_port(settings: Settings) -> None:
    port = settings.metrics_port
    if isinstance(port, int) and not 0 <= port <= 65535:
        raise ConfigurationError(f"metrics_port is {port}; allowed: 0 to 65535, or 'off'")


def _check_report(settings: Settings) -> None:
    if settings.report == "off":
        return
    if settings.journal == "off":
        raise ConfigurationError("report is 'on' and journal is 'off'; a report is made of the journal")
    if find_spec("plotly") is None:
        raise ConfigurationError("report is 'on' and plotly is missing: pip install 'rlhf-otel[report]'")


def _check_actions(settings: Settings) -> None:
    known = {rule.name for rule in settings.rule_set}
    for index, action in enumerate(settings.actions):
        if action.rule is not None and action.rule not in known:
            raise ConfigurationError(
                f"actions[{index}]: no such rule: {action.rule!r}{nearest(action.rule, known)}"
            )


def _environment() -> tuple[dict[str, Any], dict[str, str]]:
    """Values by field, and the variable that each comes from. An empty variable counts as unset."""
    variables = {
        field: variable for field, variable in STANDARD_VARIABLES.items() if os.environ.get(variable)
    }
    for variable, value in os.environ.items():
        if variable.startswith(PREFIX) and variable != OF_THE_BUILD and value != "":
            variables[variable.removeprefix(PREFIX).lower()] = variable
    values: dict[str, Any] = {field: os.environ[variable] for field, variable in variables.items()}
    sampled = traces_sampler.one_in()
    if sampled is not None and "trace_one_in" not in values:
        values["trace_one_in"], variables["trace_one_in"] = sampled, traces_sampler.SAMPLER
    return values, variables


def _file(path: str | Path) -> dict[str, Any]:
    try:
        content = yaml_limits.load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"config file {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"config file {path} is not YAML: {yaml_limits.problem(error)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigurationError(
            f"config file {path} must be a mapping of settings to values, it is a {type(content).__name__}"
        )
    if isinstance(content.get("rules"), dict):  # read again from there, since it knows the lines
        content["rules"] = Path(path)
    return content


def _explain(error: ValidationError, given: dict[str, Any], origin: dict[str, str]) -> str:
    problems: dict[str, list[ErrorDetails]] = {}
    for problem in error.errors():
        problems.setdefault(str(problem["loc"][0]), []).append(problem)
    return "\n".join(_line(key, found, given[key], origin[key]) for key, found in problems.items())


def _where(problem: ErrorDetails) -> str:
    """Where in a list of mappings: ``[0].do: ``. A union's member, such as ``int``, is no place."""
    places = problem["loc"][1:]
    if not places or not isinstance(places[0], int):
        return ""
    return f"[{places[0]}]" + "".join(f".{place}" for place in places[1:2]) + ": "


def _line(key: str, problems: list[ErrorDetails], given: Any, origin: str) -> str:
    if problems[0]["type"] == "extra_forbidden" and len(problems[0]["loc"]) == 1:
        known = ", ".join(sorted(Settings.model_fields))
        return f"unknown setting {key!r} ({origin}); known are: {known}"  # its value may be a secret's
    said = " or ".join(dict.fromkeys(_where(problem) + problem["msg"] for problem in problems))
    if key in SECRET:
        given = "(not shown)"
    return f"{key} ({origin}) is {given!r}; {said}. {Settings.model_fields[key].description}"
