"""What this project costs in time, memory and bytes, measured by one command: ``.venv/bin/python -m benchmarks``."""
