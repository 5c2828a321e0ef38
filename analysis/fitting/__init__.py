"""One law fitted to points: what points must be, the solver, intervals, validation, the record.

Builds on laws.
"""
