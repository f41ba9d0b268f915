"""Prompts to token ids: tokenizers, chat templates, the sandbox for what strangers wrote."""
