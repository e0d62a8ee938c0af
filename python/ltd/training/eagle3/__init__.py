"""Training EAGLE-3 heads with training-time test."""
