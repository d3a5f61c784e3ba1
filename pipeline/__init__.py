"""The code behind ``tasks.py``; see docs/decisions.md for its floors: imports go down, never up."""
