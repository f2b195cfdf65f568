"""Which weights live: scores, exact masks, and masks that change while training."""
