//! The Mica container engine and its command.
