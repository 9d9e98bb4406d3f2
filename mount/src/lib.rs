//! Turns a mount specification into a mounted tree.
