"""What both APIs and all loops share."""
