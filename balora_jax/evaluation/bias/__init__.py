"""Measures of bias: public sets of sentences, the user's own templates, embeddings and groups."""
