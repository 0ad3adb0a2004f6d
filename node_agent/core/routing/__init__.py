"""Route requests to engines: hash ring, loads, circuit breakers, admission."""
