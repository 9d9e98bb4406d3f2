//! Network drivers.

mod firewall;
