"""What can be wrong with images, objects and whole datasets; `samtune doctor`."""
