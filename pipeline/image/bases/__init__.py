"""Where root trees come from: one module per kind of base."""
