"""LightningDataModules over Hugging Face datasets, and the embedded sets."""
