"""Rewrites of the backward part, equal up to rounding: one function each, listed with their gains in optimize.py."""
