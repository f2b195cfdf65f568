"""Finished runs: carried out, kept, tabulated, measured."""
