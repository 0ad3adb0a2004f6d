"""As openai_chat.py, with the asynchronous client."""

import asyncio
import json
import sys

from openai import AsyncOpenAI

base_url, model, prompt, tokens, *nodes = sys.argv[1:]
if nodes:
    import synkti_client


async def main():
    options = {"http_client": synkti_client.async_http_client(nodes)} if nodes else {}
    async with AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0, **options) as client:
        stream = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=int(tokens),
            stream=True, extra_body={"ignore_eos": True},
        )  # fmt: skip
        text, reason = "", None
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            reason = chunk.choices[0].finish_reason or reason
    print(json.dumps({"text": text, "reason": reason}))


asyncio.run(main())
