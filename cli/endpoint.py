"""`synkti endpoint`: print the base URLs for clients."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Annotated

import typer

from cli.adapters.instances import Instances
from cli.errors import Failed, NotFound
from cli.fleet import Fleet, open_fleet
from cli.options import Cluster, Json, Profile, Region
from cli.terminal import Terminal
from node_agent.contract.names import FRONT_DOOR_PORT

_CHECK_S = 3.0


def endpoint(
    private: Annotated[bool, typer.Option("--private", help="Print addresses for clients in the same VPC.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Check which of them answer from here.")] = False,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Print the base URL for OpenAI clients: the load balancer's if there is one, else one for each ready node.

    Any node answers any request. To survive the loss of the node that it is connected to, a client uses `synkti
    gateway` or synkti_client (docs/clients.md).

    \b
    Examples:
      synkti endpoint
      synkti endpoint --check
      export OPENAI_BASE_URL=$(synkti endpoint | head -1)

    \f

    Raises:
        Failed: with --check, none of the addresses answers.
    """
    terminal = Terminal(as_json)
    fleet = open_fleet(cluster, region, profile)
    urls, balanced = base_urls(fleet, private=private)
    answers = {url: is_reachable(url) for url in urls} if check else {}
    terminal.document(
        {
            "cluster": fleet.cluster,
            "kind": "load-balancer" if balanced else "nodes",
            "base_urls": urls,
            **({"answers": answers} if check else {}),
        }
    )
    for url in urls:
        terminal.line(url + (f"  {'answers' if answers[url] else 'does not answer from here'}" if check else ""))
    if check and not any(answers.values()):
        raise Failed(
            "nothing answers from here",
            "client_cidrs in synkti.toml says who may call; synkti connect NODE --forward 8000:8000 always works",
        )
    if not balanced and len(urls) > 1:
        terminal.status(f"any of them answers; to survive the loss of one: synkti gateway --cluster {fleet.cluster}")


def base_urls(fleet: Fleet, *, private: bool = False) -> tuple[list[str], bool]:
    """Return the base URLs, and True where it is a load balancer's. Raises NotFound where no node is ready."""
    balancer = fleet.output("Endpoint")
    if balancer is not None and not private:
        return [f"{balancer.rstrip('/')}/v1"], True
    nodes = [node for node in Instances(fleet.account.client("ec2"), fleet.cluster).nodes() if node.is_ready]
    hosts = [host for node in nodes if (host := node.private_host if private else node.host)]
    if not hosts:
        raise NotFound("no node is ready", "synkti nodes --wait waits for one")
    return [f"http://{host}:{FRONT_DOOR_PORT}/v1" for host in hosts], False


def is_reachable(base_url: str) -> bool:
    """Return True where `/readyz` answers 200 within three seconds."""
    address = base_url.removesuffix("/v1") + "/readyz"
    try:
        with urllib.request.urlopen(address, timeout=_CHECK_S) as answer:  # noqa: S310 # http, from EC2's own answer
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def example_request(base_url: str, model: str, *, with_key: bool) -> str:
    """Return a curl command for a first request. with_key: whether nodes require a client's key."""
    body = f'{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "hello"}}]}}'
    key = ' -H "authorization: Bearer $OPENAI_API_KEY"' if with_key else ""
    return f"curl -N {base_url}/chat/completions -H 'content-type: application/json'{key} -d '{body}'"
