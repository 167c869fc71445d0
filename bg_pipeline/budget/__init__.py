"""Money: what a run would cost, and the caps it cannot pass."""
