"""The client API answers as its OpenAPI document says, whatever schemathesis makes of the document."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.abuse.fleet import abused_fleet
from tests.clients_real.environments import SCHEMATHESIS

CHECKS = "not_a_server_error,status_code_conformance,response_schema_conformance,allow_header_conformance"
CONFIGURATION = """
[phases.coverage]
unexpected-methods = ["DELETE", "GET", "PATCH", "POST", "PUT"]
"""
"""TRACE is answered with 501, which is no error of this server."""

WITHIN_S = 600


def test_the_client_api_answers_as_its_document_says(tmp_path: Path) -> None:
    program = str(SCHEMATHESIS.folder() / "bin" / "schemathesis")
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    with abused_fleet(tmp_path / "fleet", 2, SYNKTI_ALLOWED_ROUTES="/tokenize") as nodes:
        command = [program, "--config-file", str(configuration), "run", f"http://{nodes[0].host}:8000/openapi.json"]
        options = ["--checks", CHECKS, "--max-examples", "20", "--seed", "1", "--continue-on-failure", "--no-color"]
        tested = subprocess.run(
            [*command, *options], capture_output=True, text=True, timeout=WITHIN_S, check=False, cwd=tmp_path
        )
        assert tested.returncode == 0, tested.stdout[-20_000:] + tested.stderr
        assert "Tested: 20" in tested.stdout
        assert all(node.is_ready() for node in nodes)
