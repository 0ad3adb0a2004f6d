"""One streamed chat with OpenAI's Agents SDK: BASE_URL MODEL PROMPT TOKENS."""

import asyncio
import json
import sys

from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
from openai import AsyncOpenAI

base_url, model, prompt, tokens = sys.argv[1:]
set_tracing_disabled(True)


async def main() -> None:
    """Stream the answer."""
    client = AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0)
    agent = Agent(
        name="reader",
        model=OpenAIChatCompletionsModel(model=model, openai_client=client),
        model_settings=ModelSettings(temperature=0, max_tokens=int(tokens), extra_body={"ignore_eos": True}),
    )
    result, text = Runner.run_streamed(agent, prompt), ""
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            text += event.data.delta
    if text != result.final_output:
        raise SystemExit("the deltas are not the output")
    print(json.dumps({"text": text, "reason": "length"}))  # it does not pass the reason on


asyncio.run(main())
