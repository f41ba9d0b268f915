"""The logit lens, direct logit attribution and direct effects, on values of a finished run."""
