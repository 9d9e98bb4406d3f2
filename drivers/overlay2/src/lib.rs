//! Storage driver: one overlayfs layer a directory.
