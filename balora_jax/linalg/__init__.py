"""Matrix decompositions that several rooms share."""
