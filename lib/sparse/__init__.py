"""Forward and backward passes at the cost of the live weights, on a CPU."""
