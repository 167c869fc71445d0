"""Rekognition Custom Labels: the model's start and stop, and the runs that label the photos waiting for it."""
