"""SAM 2 itself: loading, layouts, preprocessing, the decoder, what learns, image embeddings and their cache."""
