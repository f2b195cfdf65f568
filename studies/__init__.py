"""What belongs to the papers: presets, claims and their rules, drawings, and the glue of notebooks."""
