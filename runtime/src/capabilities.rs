//! The five capability sets of a process.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};

use crate::error::{Context, Result};
use crate::plan::CapabilityPlan;

/// Takes out what this process does not have and so cannot give; says which those are.
pub(crate) fn clamp(plan: &mut CapabilityPlan) -> Result<Option<String>> {
    let own = capabilities(None).context(|| "reading the supervisor's capabilities")?.permitted;
    let CapabilitySets { effective, permitted, inheritable } = plan.sets;
    let wanted = plan.bounding | effective | permitted | inheritable | plan.ambient;
    plan.bounding &= own;
    plan.ambient &= own;
    plan.sets = CapabilitySets {
        effective: effective & own,
        permitted: permitted & own,
        inheritable: inheritable & own,
    };
    let lost: Vec<String> = (wanted & !own).iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    Ok((!lost.is_empty())
        .then(|| format!("not given, since this host does not have it to give: {}", lost.join(", "))))
}

/// Ends what exec could ever give. While CAP_SETPCAP is still there.
pub(crate) fn drop_bounding(plan: Option<&CapabilityPlan>) -> Result<()> {
    let Some(plan) = plan else { return Ok(()) };
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if plan.bounding.contains(capability) {
            continue;
        }
        match remove_capability_from_bounding_set(capability) {
            // The kernel's last one.
            Err(Errno::INVAL) => break,
            dropped => dropped.context(|| format!("dropping capability {bit} from the bounding set"))?,
        }
    }
    Ok(())
}

/// Sets the other four. After the change of user, which would undo it.
pub(crate) fn set(plan: Option<&CapabilityPlan>) -> Result<()> {
    let Some(plan) = plan else { return Ok(()) };
    set_capabilities(None, plan.sets).context(|| "setting the capabilities")?;
    clear_ambient_capability_set().context(|| "clearing the ambient capabilities")?;
    for (name, capability) in plan.ambient.iter_names() {
        configure_capability_in_ambient_set(capability, true)
            .context(|| format!("raising the ambient capability CAP_{name}"))?;
    }
    Ok(())
}
