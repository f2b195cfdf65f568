"""What belongs to the papers: presets, claims, rules, drawings, and the glue of notebooks."""
