"""Optional engines and tools, imported on demand."""
