"""What a fit to anybody's table is asked: its points, a budget's best use, how sure that is.

Builds on laws and fitting.
"""
