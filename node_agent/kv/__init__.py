"""The engine's KV blocks outside the engine: kept in a folder, read back by whichever engine goes on.

`connector` is loaded by vLLM (`kv_connector_module_path`), in the engine's own environment, and by nothing else; the
rest is standard library, so that the agent can use the same folder.
"""
