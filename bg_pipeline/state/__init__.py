"""What the pipeline keeps in the bucket about its work: ledgers, paid answers, leases."""
