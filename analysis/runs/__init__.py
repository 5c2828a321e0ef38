"""Runs as one typed table: read from a sweep or anybody's tracking, labelled, averaged, compared.

Builds on nothing.
"""
