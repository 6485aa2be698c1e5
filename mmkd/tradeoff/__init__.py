"""Run a study, find the Pareto front, draw the report."""
