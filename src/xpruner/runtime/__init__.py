"""What every forward pass needs: devices, precision, outputs and progress."""
