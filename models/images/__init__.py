"""Image networks: backbones, teachers, decoders."""
