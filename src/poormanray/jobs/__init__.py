"""What work can do: submit, follow, list, cancel, and collect its results."""
