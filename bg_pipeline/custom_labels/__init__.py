"""Rekognition Custom Labels models: on only while photos wait for them, and stopped in every case."""
