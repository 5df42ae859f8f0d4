"""The cloud in a box: knows moto, and is met only over HTTP."""
