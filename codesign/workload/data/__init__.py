"""Component tables (CSV), one file per kind; every file opens with its source."""
