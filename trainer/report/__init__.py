"""One self-contained HTML page a run: figures, tables, and where each number comes from. Needs matplotlib."""
