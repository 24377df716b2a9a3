"""What lies on the disk: folders, files, settings, tensors, claims."""
