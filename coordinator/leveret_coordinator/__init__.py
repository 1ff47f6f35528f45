"""The coordinator: owns the catalog, decides what becomes of every run, publishes the work."""
