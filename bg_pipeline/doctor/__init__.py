"""What works in the account in use, and what to do about what does not."""
