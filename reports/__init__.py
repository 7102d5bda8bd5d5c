"""What report.py shows of finished runs and trained models; no part of training imports this."""
