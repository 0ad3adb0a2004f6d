"""The OpenAI and Anthropic APIs as vLLM 0.32 implements them: requests, routes, chunks, events."""
