"""Selection of models: where each is available, and which of the configured ones is used."""
