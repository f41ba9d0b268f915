"""The decoder families: what each model_type of config.json means, as data."""
