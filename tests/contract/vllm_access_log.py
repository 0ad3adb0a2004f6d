"""Print which requests vLLM's server would log: run in the engine's environment, without the agent's packages.

    python vllm_access_log.py ARGUMENTS PATHS    both JSON lists: of `vllm serve`, without its name; of requests

vLLM's own parser reads the arguments, and its own configuration of uvicorn's logs decides. Printed is a JSON list.
"""

from __future__ import annotations

import io
import json
import logging
import logging.config
import sys

from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.launchers.utils.server_utils import get_uvicorn_log_config
from vllm.utils.argparse_utils import FlexibleArgumentParser


def main() -> None:
    """Log one request of each path, as uvicorn does, and print the paths of the lines that appeared."""
    arguments, paths = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    logging.config.dictConfig(get_uvicorn_log_config(parsed))
    lines = io.StringIO()
    logger = logging.getLogger("uvicorn.access")
    for handler in logger.handlers:
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(lines)
    for path in paths:
        logger.info('%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "GET", path, "1.1", 200)
    print(json.dumps([path for path in paths if f"GET {path} HTTP" in lines.getvalue()]))


if __name__ == "__main__":
    main()
