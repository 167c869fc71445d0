"""S3: reading, listing and (conditionally) writing objects of one bucket."""
