"""What calibration images tell: moments of activations, sensitivity of the logits, rotated heads."""
