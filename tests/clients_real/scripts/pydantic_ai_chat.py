"""One streamed chat with Pydantic AI: BASE_URL MODEL PROMPT TOKENS."""

import asyncio
import json
import sys

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

base_url, model, prompt, tokens = sys.argv[1:]


async def main() -> None:
    """Stream the answer."""
    client = AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0)
    agent = Agent(OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client)))
    settings = {"temperature": 0, "max_tokens": int(tokens), "extra_body": {"ignore_eos": True}}
    async with agent.run_stream(prompt, model_settings=settings) as result:
        text = "".join([delta async for delta in result.stream_text(delta=True, debounce_by=None)])
        reason = result.response.finish_reason
    if reason is None:
        raise SystemExit("the answer has no finish_reason: it is not whole")
    print(json.dumps({"text": text, "reason": reason}))


asyncio.run(main())
