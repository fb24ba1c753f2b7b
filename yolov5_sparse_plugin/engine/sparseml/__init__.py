"""SparseML executes the recipe: the only place that imports it."""
