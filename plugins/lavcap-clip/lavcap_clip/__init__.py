"""CLIP visual encoder for lavcap through transformers; timm models through the extra [timm]."""
