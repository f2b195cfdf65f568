"""Image sets: held in memory or decoded while training, and the batches made of them."""
