"""Display of models, runs and results: HTML in a notebook, aligned text elsewhere, data frames, a
page.

Nothing here imports what it displays. Token texts are untrusted and always escaped.
"""
