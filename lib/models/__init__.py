"""Architectures, how their weights are drawn, and what they cost."""
