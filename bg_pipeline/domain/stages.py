"""The stages of an image, by the names of their assets."""

LABELS = "labels"

CAPTIONS = "captions"

PICTURES = "generated_images"

REPORT = "status_report"

STAGES = (LABELS, CAPTIONS, PICTURES, REPORT)
"""In lineage order, by the names of their assets."""
