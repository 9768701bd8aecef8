"""Fine-tuning: contrastive training of a CLIP from a checkpoint, or from nothing."""
