"""From run records to tables, pages and galleries. Reads files only; no network code is imported here."""
