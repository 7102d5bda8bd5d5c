"""Reports of finished runs and trained models; no part of training imports them."""
