"""What everything stands on: files, journals, this machine, tables."""
