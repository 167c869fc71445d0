"""The processing stages of an image; each has the name of its Dagster asset."""

LABELS = "labels"

CAPTIONS = "captions"

PICTURES = "generated_images"

REPORT = "status_report"

STAGES = (LABELS, CAPTIONS, PICTURES, REPORT)
"""All stages in the order in which they depend on each other."""
