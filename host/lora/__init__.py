"""LoRA files and applied LoRAs, filtered layer by layer."""
