"""What computes: encoders, teachers, heads, losses, methods, point operations."""

from models.loading import load_model

__all__ = ["load_model"]
