"""A small server with the interface of vLLM's that async GRPO asks for completions, for ``further_runs.py``.

It draws from its own copy of the policy, over HTTP, to TRL's real rollout worker in a process of its own. Weights come
without NCCL: the trainer's transfer hands them over in this process. It can be slow, and it can refuse requests.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import torch

UNAVAILABLE: Final = 503
"""What a server that is overloaded or starting answers."""


def never(number: int) -> bool:
    """No request is refused."""
    return False


class SamplingServer:
    """Answers ``/v1/completions``; also the transfer that the trainer hands its weights to."""

    def __init__(self, model: Any, end_of_sequence: int, most: int) -> None:
        self._model, self._end, self._most = model.eval(), end_of_sequence, most
        self._weights = threading.Lock()
        self._requests = itertools.count()
        self.refuses: Callable[[int], bool] = never
        """Whether it refuses a request, by its number."""
        self.seconds = 0.0
        """That a completion takes beside the drawing."""
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def complete(self, prompt: list[int]) -> dict[str, Any] | None:
        """A choice as vLLM returns it; None when the request is refused."""
        if self.refuses(next(self._requests)):
            return None
        time.sleep(self.seconds)
        with self._weights, torch.no_grad():
            tokens, logprobs = self._draw(list(prompt))
        return {"token_ids": tokens, "logprobs": {"token_logprobs": logprobs}}

    def _draw(self, ids: list[int]) -> tuple[list[int], list[float]]:
        start, logprobs = len(ids), []
        for _ in range(self._most):
            scores = self._model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
            ids.append(int(torch.multinomial(scores.exp(), 1)))
            logprobs.append(float(scores[ids[-1]]))
            if ids[-1] == self._end:
                break
        return ids[start:], logprobs

    # --- the transfer of weights

    def init_weight_transfer(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def destroy(self) -> None:
        """Training has ended."""
        self._http.shutdown()
        self._http.server_close()

    def send_weights(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Completions are drawn from ``weights`` from now on."""
        with self._weights:
            self._model.load_state_dict(dict(weights), strict=False)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                choice = server.complete(asked["prompt"])
                body = b"" if choice is None else json.dumps({"choices": [choice]}).encode()
                self.send_response(UNAVAILABLE if choice is None else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # the worker was stopped meanwhile
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        return Handler
