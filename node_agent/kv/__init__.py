"""The engine's KV blocks outside the engine: stored in a folder, and loaded by the engine that continues a stream.

vLLM loads `connector` (`kv_connector_module_path`), in the engine's own environment, and nothing else does; the rest is
standard library, so that the agent can use the same folder.
"""
