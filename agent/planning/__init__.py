"""What to do next in a home's life: pure functions of stored evidence, and the one module that reads it from the store."""
