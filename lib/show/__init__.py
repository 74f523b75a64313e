"""What people see while a run goes on and after it: words, figures, tables."""
