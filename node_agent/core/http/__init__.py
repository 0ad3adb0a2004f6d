"""HTTP requests before anybody reads their bodies: heads, bounds, connections."""
