"""Recipes that are shipped with the plugin; README.md says where each number comes from."""
