"""Models that say in words what a photo shows."""
