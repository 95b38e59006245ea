"""What a compile tells: report.json, and for people."""
