"""What is trained: the decoders, embeddings and cloners of the papers, in the style of a given teacher."""
