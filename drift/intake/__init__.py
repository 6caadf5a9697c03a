"""What every log goes through on its way to records: files, rows, conversations, duplicates, language, redaction, leakage."""
