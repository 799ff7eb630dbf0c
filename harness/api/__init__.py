"""The public API behind `import harness`: run scenarios, read results, draw pages, compare and tune from Python."""
