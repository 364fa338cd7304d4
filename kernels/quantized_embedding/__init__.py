"""Tables of embeddings in integer codes with scales beside them: preparation, reference arithmetic and the torch module."""
