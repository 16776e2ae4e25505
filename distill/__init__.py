"""Online distillation of heavy image-restoration networks into small, fast ones."""
