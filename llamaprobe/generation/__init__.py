"""Generation: sampling, stop conditions, streamed text, and sessions that keep their cache."""
