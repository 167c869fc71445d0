"""The run: processes the images of upload dates, from the uploads to stored results and reports."""
