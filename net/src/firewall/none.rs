//! No firewall: what the host's own rules let through gets through.

use mica_core::Result;
use mica_core::network::{Families, Mark, NetworkId, Owned};

use super::{Firewall, Ground, Guarded};

/// A back end for hosts whose owner wants no rule of ours. It keeps none of the promises.
#[derive(Debug)]
pub(crate) struct None;

impl Firewall for None {
    fn name(&self) -> &'static str {
        "none"
    }

    fn shields(&self) -> bool {
        false
    }

    fn close(&self, _: Families) -> Result<()> {
        Ok(())
    }

    fn raise(&self, _: &Ground) -> Result<bool> {
        Ok(false)
    }

    fn lower(&self, _: NetworkId) -> Result<()> {
        Ok(())
    }

    fn guard(&self, _: &Ground, _: &Guarded) -> Result<()> {
        Ok(())
    }

    fn publish(&self, _: &Ground, _: &Guarded, _: &Guarded) -> Result<()> {
        Ok(())
    }

    fn release(&self, _: &Mark, _: Option<(&Ground, &Guarded)>) -> Result<()> {
        Ok(())
    }

    fn missing(&self, _: &Ground, _: Option<&Guarded>) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn list(&self) -> Result<Vec<Owned>> {
        Ok(Vec::new())
    }

    fn forbidden(&self, _: &Ground) -> Result<Option<String>> {
        Ok(Option::None)
    }

    fn clear(&self) -> Result<()> {
        Ok(())
    }
}
