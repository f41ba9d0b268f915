"""How models, runs and results look: HTML in a notebook, aligned text elsewhere, tables, a page.

Nothing here imports what it shows; texts of tokens come from strangers and are escaped.
"""
