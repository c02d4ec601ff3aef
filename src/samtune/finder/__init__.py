"""The finder: class-labelled boxes proposed from kept image embeddings, which the decoder turns into masks."""
