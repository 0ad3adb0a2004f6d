"""Parts that both APIs and all loops share."""
