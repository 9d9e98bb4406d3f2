//! Wishes that a driver does not grant.

use mica_core::{Error, Result};

/// Fails with [`Error::Unsupported`] where it is wished for.
pub(crate) fn refuse(driver: &str, is_wished: bool, op: &'static str) -> Result<()> {
    if is_wished { Err(Error::Unsupported { driver: driver.to_owned(), op }) } else { Ok(()) }
}
