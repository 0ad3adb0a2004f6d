"""`python -m local.fake_engine --host H --port P --model-name NAME`: a fake `vllm serve`."""

from __future__ import annotations

import argparse

import uvloop

from local.fake_engine.config import Config
from local.fake_engine.process import serve
from local.fake_engine.triggers import parse_trigger


def main() -> None:
    """Serve until SIGTERM, with the settings of the command line."""
    parser = argparse.ArgumentParser(prog="local.fake_engine", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model-name", required=True)
    parser.add_argument("--also-named", action="append", default=[], help="another name of the model")
    parser.add_argument("--seconds-per-token", type=float, default=0.02)
    parser.add_argument(
        "--seconds-per-request", type=float, default=0.0, help="added per token for each active request"
    )
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--shutdown-timeout", type=float, default=0.0)
    parser.add_argument("--kv-transfer-config", help="accepted and ignored: no blocks are kept")
    parser.add_argument("--faults", action="store_true", help="accept faults at /standin/faults")
    parser.add_argument("--max-num-seqs", type=int, default=1_024)
    parser.add_argument("--plugged", action="store_true", help="behave as with the plug-in, which can resume")
    parser.add_argument(
        "--on-text", action="append", type=parse_trigger, default=[], help="TEXT=WHAT: fail at requests with TEXT"
    )
    given = parser.parse_args()
    config = Config(
        given.model_name,
        given.seconds_per_token,
        given.max_model_len,
        given.shutdown_timeout,
        given.faults,
        given.max_num_seqs,
        given.plugged,
        given.seconds_per_request,
        tuple(given.on_text),
        tuple(given.also_named),
    )
    uvloop.run(serve(config, given.host, given.port))


if __name__ == "__main__":
    main()
