"""NViT: Hessian-aware scores, weighed by latency."""
