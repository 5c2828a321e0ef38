"""What a run that nobody has made would reach, and which recipe to use for it.

Builds on runs, laws, fitting, scaling and questions.
"""
