"""The machine, and where the time of a run goes."""
