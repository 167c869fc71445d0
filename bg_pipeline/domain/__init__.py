"""What a batch, a request, a report row and a payment are; imports nothing else of the package but errors."""
