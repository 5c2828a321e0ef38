"""What a sweep is asked, a file a question; `results` holds what every report shows.

Builds on runs, laws, fitting and scaling.
"""
