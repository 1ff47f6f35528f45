"""What the workers of the tests of durability serve."""
