"""`kdad calibrate`: a trained detector's thresholds, from pictures of one's own and without training."""
