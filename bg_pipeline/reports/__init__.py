"""Reports of batches, built from the stored ledger: JSON, CSV, data frame, terminal table and HTML page."""
