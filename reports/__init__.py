"""Reports of finished runs and trained models; training does not import them."""
