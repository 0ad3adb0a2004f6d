"""What the commands decide, as pure functions: no AWS, no clock, no terminal."""
