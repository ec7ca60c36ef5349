"""What computes: teachers, encoders, projection, heads, losses, methods, point operations."""
