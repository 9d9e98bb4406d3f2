//! The contracts of Mica's storage and network drivers.
