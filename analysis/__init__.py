"""From runs to a table, fits, answers, figures and one report; imports no torch and no hydra.

Folders, each building on no other than those before it: runs, laws, fitting, scaling,
questions, predictions, tables, figures; then `report`.
"""
