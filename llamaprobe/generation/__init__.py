"""Generation: choosing tokens, when to stop, the text as it comes, sessions that keep their cache."""
