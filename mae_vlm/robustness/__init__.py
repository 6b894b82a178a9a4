"""How much a fine-tuned model loses when pictures are spoilt: corruptions, hidden patches, an attack, and whether it knows."""
