"""The engine that executes recipes: SparseML. The only package that imports it; doing so takes about three seconds."""
