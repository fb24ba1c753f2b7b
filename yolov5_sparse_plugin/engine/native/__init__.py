"""This project's own engine: executes recipes with torch alone, number for number as SparseML 1.8 does."""
