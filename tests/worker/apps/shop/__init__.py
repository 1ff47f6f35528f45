"""An app that is a package."""
