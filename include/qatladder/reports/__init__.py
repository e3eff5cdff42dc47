"""What a run says to people: a report (JSON, HTML, text)."""
