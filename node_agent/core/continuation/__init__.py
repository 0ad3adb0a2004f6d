"""How an answer continues at another engine: the method, the request, and the timeouts."""
