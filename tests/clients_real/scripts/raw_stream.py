"""One streamed chat, read as its blocks come, as benchmarks do: httpx|aiohttp BASE_URL MODEL PROMPT TOKENS.

Each block is taken for `data: ` and JSON, nothing else.
"""

import asyncio
import json
import sys

how, base_url, model, prompt, tokens = sys.argv[1:]
if how == "httpx":
    import httpx
else:
    import aiohttp

body = {
    "model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": int(tokens),
    "stream": True, "ignore_eos": True,
}  # fmt: skip
url = f"{base_url}/chat/completions"


async def with_httpx():
    async with httpx.AsyncClient(timeout=60) as client, client.stream("POST", url, json=body) as response:
        response.raise_for_status()
        async for data in response.aiter_bytes():
            yield data


async def with_aiohttp():
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        response.raise_for_status()
        async for data in response.content.iter_any():
            yield data


async def main():
    held, text, reason, done = b"", "", None, False
    async for data in with_httpx() if how == "httpx" else with_aiohttp():
        *blocks, held = (held + data).split(b"\n\n")
        for block in filter(None, (block.strip() for block in blocks)):
            payload = block.removeprefix(b"data: ")
            if payload == b"[DONE]":
                done = True
                continue
            choice = json.loads(payload)["choices"][0]
            text += choice["delta"].get("content") or ""
            reason = choice["finish_reason"] or reason
    if not done:
        raise SystemExit("no [DONE]")
    print(json.dumps({"text": text, "reason": reason}))


asyncio.run(main())
