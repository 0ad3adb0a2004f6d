"""KV blocks of vLLM: their names, their index, and where a context is loaded from."""
