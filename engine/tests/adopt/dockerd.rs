//! A data root that Debian's dockerd wrote.
