"""The one file for the field: ``bundle.pyz``, and the page that lies beside it."""
