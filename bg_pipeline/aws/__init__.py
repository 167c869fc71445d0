"""boto3 clients: their configuration, their credentials and what is tuned in them."""
