//! The contract of a storage driver as a list of cases.
