"""Objects in S3: read, listed and written conditionally."""
