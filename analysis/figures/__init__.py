"""Answers in figures; a question's figure has its name, as its table has.

Builds on runs, fitting, scaling, questions and tables.
"""
