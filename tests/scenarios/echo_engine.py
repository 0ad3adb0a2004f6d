"""An engine that answers every request with what it received: `python -m tests.scenarios.echo_engine HOST PORT MODEL`.

Its /v1/models lists a second name and an adapter.
"""

from __future__ import annotations

import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def models(model: str) -> dict[str, Any]:
    card = {"object": "model", "created": 1, "owned_by": "vllm", "max_model_len": 4096, "parent": None}
    adapter = {"id": f"{model}-sql", "root": "/adapter", "parent": model}
    return {
        "object": "list",
        "data": [{"id": name, "root": "/model", **card} for name in (model, f"{model}-too")] + [adapter],
    }


class Echo(BaseHTTPRequestHandler):
    """Answers one request with its own method, target, headers and body as JSON."""

    protocol_version = "HTTP/1.1"
    model = ""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        received = {
            "method": self.command,
            "target": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": base64.b64encode(body).decode(),
        }
        answer = json.dumps(models(self.model) if self.path == "/v1/models" else received).encode()
        status = 418 if self.path.endswith("/teapot") else 200
        self.send_response(status)
        for name, value in (("content-type", "application/json"), ("content-length", str(len(answer)))):
            self.send_header(name, value)
        self.send_header("location", "http://127.0.0.1:8002/inside")
        self.send_header("content-disposition", "attachment")
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_DELETE = do_PUT = _answer  # http.server's names

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


def main() -> None:
    host, port, Echo.model = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    ThreadingHTTPServer((host, port), Echo).serve_forever()


if __name__ == "__main__":
    main()
