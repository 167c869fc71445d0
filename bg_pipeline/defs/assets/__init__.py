"""The lineage: raw images, then labels, captions, generated images and status reports of each upload date."""
