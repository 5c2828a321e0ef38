"""Answers in rows and sentences, of a report or in a terminal; a question's table has its name.

Builds on runs, laws, fitting, scaling, questions and predictions.
"""
