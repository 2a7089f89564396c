"""Recipes: procedures with named stages and declared slots."""
