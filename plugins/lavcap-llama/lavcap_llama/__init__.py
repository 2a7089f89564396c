"""Any causal language model of transformers as lavcap's decoder: frozen, LoRA or finetuned."""
