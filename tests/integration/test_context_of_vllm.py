"""A vLLM server sees which phase asks it: TRL's own client and trainer, against a server that only plays vLLM.

What needs CUDA or the vllm package is left out: the NCCL group over which the weights themselves travel.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from otlp_receiver import http_receiver
from recording_server import recording_server
from tiny import COMPLETION_TOKENS, build_trainer
from trl.generation import vllm_client, vllm_generation
from trl.trainer import grpo_trainer

from rlhf_otel import TelemetryCallback
from rlhf_otel.exporters.span_tree import trace_id

STEPS = 3


def vllm(path: str, body: Any) -> Any:
    """What a vLLM server would answer, as far as TRL looks at it."""
    if path == "/v1/models":
        return {"data": [{"id": "model"}]}
    if path.startswith("/server_info"):
        return {"vllm_config": {"model_config": {"logprobs_mode": "processed_logprobs"}}} | {
            "model_config": {"logprobs_mode": "processed_logprobs"}
        }
    if path == "/v1/completions":
        return {"choices": [_choice(prompt, n) for prompt in body["prompt"] for n in range(body["n"])]}
    return {}


def _choice(prompt: list[int], n: int) -> dict[str, Any]:
    tokens = [10 + (n + i) % 20 for i in range(COMPLETION_TOKENS)]
    names = [f"token_id:{token}" for token in tokens]
    logprobs = {"tokens": names, "token_logprobs": [-1.0] * len(tokens)} | {
        "top_logprobs": [{name: -1.0} for name in names]
    }
    return {"prompt_token_ids": prompt, "token_ids": tokens, "logprobs": logprobs}


class _WeightTransfer:
    @staticmethod
    def trainer_send_weights(iterator: Any, trainer_args: Any) -> None:
        """Walk the weights, as who sends them does."""
        assert all(isinstance(weights, torch.Tensor) for _, weights in iterator)


@pytest.fixture
def _no_vllm_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (vllm_client, vllm_generation, grpo_trainer):
        monkeypatch.setattr(module, "is_vllm_available", lambda *_, **__: True, raising=False)
    monkeypatch.setattr(vllm_client.VLLMClient, "init_communicator", lambda *_, **__: None)
    monkeypatch.setattr(vllm_client.VLLMClient, "communicator", None, raising=False)
    monkeypatch.setattr(vllm_client, "_HAS_STATEFUL_TRAINER_ENGINE", False, raising=False)
    monkeypatch.setattr(vllm_client, "NCCLWeightTransferEngine", _WeightTransfer, raising=False)
    monkeypatch.setattr(vllm_client, "NCCLTrainerSendWeightsArgs", dict, raising=False)


@pytest.mark.usefixtures("strict", "_no_vllm_needed")
def test_a_vllm_server_is_asked_by_the_phase(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with http_receiver() as receiver, recording_server(vllm) as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        telemetry = TelemetryCallback(run_id=tmp_path.name, metrics_port="off", journal="off", trace_one_in=1)
        trainer = build_trainer(
            tmp_path,
            [telemetry],
            max_steps=STEPS,
            use_vllm=True,
            vllm_mode="server",
            vllm_server_base_url=server.address,
        )
        RequestsInstrumentor().instrument()
        try:
            trainer.train()
        finally:
            RequestsInstrumentor().uninstrument()
    assert vllm_client.ThreadPoolExecutor is ThreadPoolExecutor

    spans = {int.from_bytes(got.span.span_id, "big"): got for got in receiver.spans}
    traces = [trace_id(tmp_path.name, 1, step) for step in range(1, STEPS + 1)]
    for path, phase in (
        ("/v1/completions", "generate"),
        ("/start_weight_update", "weight_sync"),
        ("/update_weights", "weight_sync"),  # from a thread of the client
    ):
        parents = server.parents(path)
        assert [parent.trace for parent in parents] == traces
        assert {spans[parent.span].attributes["rlhf.phase"] for parent in parents} == {phase}
