"""Check HTTP requests before their bodies are parsed: heads, bounds, connections, CORS."""
