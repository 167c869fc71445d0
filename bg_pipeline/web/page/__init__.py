"""The web page, where people submit photos, follow batches and review results without opening Dagster."""
