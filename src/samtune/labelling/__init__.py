"""How much data is enough, and which images to label next."""
