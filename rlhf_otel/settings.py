"""Settings of the callback: by argument, by environment, by YAML file, in that order.

The environment has ``RLHF_OTEL_<FIELD>`` for every field, and the standard OpenTelemetry variables where
there is one. The YAML file is named by the argument or variable ``config``. An unknown key, a wrong type or
an impossible value is a :class:`~rlhf_otel.errors.ConfigurationError` at construction.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlhf_otel.errors import ConfigurationError

PREFIX: Final = "RLHF_OTEL_"

STANDARD_VARIABLES: Final[dict[str, str]] = {
    "metrics_host": "OTEL_EXPORTER_PROMETHEUS_HOST",
    "metrics_port": "OTEL_EXPORTER_PROMETHEUS_PORT",
}
"""Fields that OpenTelemetry has a variable for; ``RLHF_OTEL_*`` wins over it."""


class Settings(BaseModel):
    """What can be set. Every field has an effect, or is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_id: str | None = Field(
        None, min_length=1, max_length=200, description="Identity of the run on every series."
    )
    run_name: str | None = Field(None, max_length=200, description="Name for people.")
    team: str = Field("", max_length=100, description="Team that owns the run; routes its alerts.")
    owner: str = Field("", max_length=100, description="Person who is asked about the run.")
    metrics_host: str = Field("localhost", min_length=1, description="Address that /metrics listens on.")
    metrics_port: int | Literal["off"] = Field(
        9464,
        description="Port of /metrics; the local rank is added. 0 takes a free one, 'off' serves nothing.",
    )
    journal: Path | Literal["off"] | None = Field(
        None, description="Directory of the journal; by default 'rlhf_otel' in the trainer's output_dir."
    )
    trace_one_in: int = Field(100, ge=1, description="One in so many healthy steps is kept as a trace.")
    stall_floor_s: float = Field(
        300.0, gt=0, description="Seconds without a step that never count as a stall."
    )
    stall_multiple: float = Field(
        3.0, gt=1, description="Multiple of the slowest usual step that counts as a stall."
    )
    linger_s: float = Field(
        60.0,
        ge=0,
        le=600,
        description="Seconds, at most, that a process stays after training until Prometheus knows.",
    )
    system_interval_s: float = Field(
        5.0, ge=0.5, description="Seconds between readings of GPU, host and allocator."
    )


def load(config: str | Path | None = None, **arguments: Any) -> Settings:
    """Settings from arguments, environment and file. Raises ConfigurationError."""
    given = {key: value for key, value in arguments.items() if value is not None}
    environment = _environment()
    path = config or environment.pop("config", None)
    origin = dict.fromkeys(given, "argument")
    merged: dict[str, Any] = dict(given)
    for values, where in ((environment, "environment"), (_file(path) if path else {}, f"file {path}")):
        for key, value in values.items():
            if key not in merged:
                merged[key], origin[key] = value, where
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, merged, origin)) from None
    _check_port(settings)
    return settings


def _check_port(settings: Settings) -> None:
    port = settings.metrics_port
    if isinstance(port, int) and not 0 <= port <= 65535:
        raise ConfigurationError(f"metrics_port is {port}; allowed: 0 to 65535, or 'off'")


def _environment() -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field, variable in STANDARD_VARIABLES.items():
        if os.environ.get(variable):
            values[field] = os.environ[variable]
    for variable, value in os.environ.items():
        if variable.startswith(PREFIX) and value != "":
            values[variable.removeprefix(PREFIX).lower()] = value
    return values


def _file(path: str | Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"config file {path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"config file {path} is not YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigurationError(
            f"config file {path} must be a mapping of settings to values, it is {content!r:.80}"
        )
    return content


def _explain(error: ValidationError, given: dict[str, Any], origin: dict[str, str]) -> str:
    lines: dict[str, str] = {}
    for problem in error.errors():
        key = str(problem["loc"][0])
        where = origin.get(key, "argument")
        if problem["type"] == "extra_forbidden":
            known = ", ".join(sorted(Settings.model_fields))
            lines[key] = f"unknown setting {key!r} ({where}, given {given[key]!r}); known are: {known}"
        else:
            field = Settings.model_fields[key]
            said = f"{lines[key].partition('; ')[2]} or {problem['msg']}" if key in lines else problem["msg"]
            text = said.partition(" (")[0] if key in lines else said
            lines[key] = f"{key} ({where}) is {given[key]!r}; {text}. {field.description}"
    return "\n".join(lines.values())
