"""The influence of teachers on listeners, and the heat map that draws it."""
