"""The assets of each upload date: raw images, labels, captions, generated images and status reports."""
