"""What a person looks at after a run: maps, plots, tables. Knows no model, and imports no matplotlib before it draws."""
