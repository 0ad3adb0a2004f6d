"""`python -m node_agent`: one node of the fleet, configured by environment variables (node_agent/settings).

It waits for an AWS that is away at the start. Exit codes: 0 drained and gone; 69 the engine cannot be kept running;
78 the configuration is wrong (all faults are on stderr), or the engine's: another start would end the same. Anything
else is a bug.
"""

from __future__ import annotations

import logging
import os
import sys
import time

import uvloop

from node_agent.adapters.json_log import use_json
from node_agent.adapters.log_lines import bound_lines
from node_agent.adapters.process_memory import tune_gc
from node_agent.adapters.systemd import systemd_lifecycle
from node_agent.agent import run
from node_agent.contract.errors import ConfigurationError
from node_agent.core.node.lifecycle import EXIT_CONFIGURATION
from node_agent.settings import Settings, from_environ


def main() -> int:
    """Run the agent with the environment's settings; return its exit code, or end the process with it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    bound_lines(time.monotonic)
    logging.getLogger("botocore").setLevel(logging.WARNING)  # its info lines only repeat ours
    tune_gc()
    try:
        settings = from_environ(os.environ)
        logging.getLogger("node_agent").setLevel(settings.log_level)
        if settings.log_format == "json":
            use_json()
        return uvloop.run(_run_supervised(settings))
    except ConfigurationError as error:
        for fault in error.faults:
            print(f"configuration: {fault}", file=sys.stderr)
        return EXIT_CONFIGURATION


async def _run_supervised(settings: Settings) -> int:
    async with systemd_lifecycle(os.environ) as notify:
        code = await run(settings, notify)
    exit_immediately(code)
    return code


def exit_immediately(code: int) -> None:
    """End the process, whatever its threads wait for: an S3 that does not respond would hold it for 45 s."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
