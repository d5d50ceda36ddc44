"""From a candidate to a folder that runs, is proven to be what was measured, and loads without code."""
