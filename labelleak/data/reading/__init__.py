"""What sources share: arrays, files, images in them, and prepared records."""
