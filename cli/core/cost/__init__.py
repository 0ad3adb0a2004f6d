"""Estimate the monthly bill of a deployment, before anything exists."""
