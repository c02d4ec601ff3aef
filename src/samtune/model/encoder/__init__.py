"""The image encoder's fast path and the embeddings it gives."""
