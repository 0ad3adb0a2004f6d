"""Check HTTP messages before their bodies are parsed: heads, bounds, timeouts, connections, CORS."""
