"""Checks of the AWS account and the settings, calls of each model, and IAM policies."""
