"""Estimators of what a network does and how it curves: one module per quantity."""
