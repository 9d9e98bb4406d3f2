//! Storage driver: a full copy a layer, on any file system.
