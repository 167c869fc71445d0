"""The flow of images: from a date's uploads to stored results, every image at its own pace."""
