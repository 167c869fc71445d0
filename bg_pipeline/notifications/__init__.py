"""What people are told when a batch is finished or a run broke off, and how it reaches them."""
