"""Caption models, which describe a photo in words."""
