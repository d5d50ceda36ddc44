"""The loop of a search, and what decides in it: who proposes (samplers), when a trial is stopped (rungs)."""
