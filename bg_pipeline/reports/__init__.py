"""Reports of batches: built from what is stored, as JSON, CSV, table and page."""
