//! The records against the kernel: what is there that no record names, and what is missing.

use std::collections::{BTreeMap, BTreeSet};

use mica_core::NetworkDriver;
use mica_core::network::{Endpoint, EndpointId, Network, NetworkId, Owned, Scope};

use super::{NetworkRecord, Networks};
use crate::{Error, Result};

/// What a check found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkReport {
    /// What is not as the records say, and was left so.
    pub faults: Vec<String>,
    /// What was done about it.
    pub done: Vec<String>,
}

/// What is recorded, all of it.
struct Known {
    networks: BTreeMap<NetworkId, NetworkRecord>,
    endpoints: BTreeSet<(NetworkId, EndpointId)>,
}

impl Networks {
    /// Looks for what drivers have in the kernel that no record names, and for what is missing there. With `repair` the one is taken
    /// away and the other made: every network that is in use, or of which something stands, and the endpoints of containers that
    /// run; addresses that nobody recorded are given back.
    pub fn check(&self, repair: bool) -> Result<NetworkReport> {
        // What makes a network stand again leaves nothing to be seen of what it was that it lacked.
        let found = if repair { self.faults_of_containers()? } else { BTreeMap::new() };
        let alone = self.alone()?;
        let mut report = NetworkReport::default();
        self.check_abandoned(repair, &mut report)?;
        self.each_driver(&mut report, |driver, report| {
            // Listed first: what is recorded while it is looked at must not seem forgotten.
            let owned = driver.list()?;
            let known = self.known()?;
            for (scope, objects) in unrecorded(&owned, &known) {
                let text = format!("{}: {objects}", describe(scope, &known));
                match repair.then(|| discard(driver, scope, &known)) {
                    None => report.faults.push(format!("{text}; 'mica network check --repair' removes it")),
                    Some(Ok(())) => report.done.push(format!("removed {text}")),
                    Some(Err(error)) => report.faults.push(format!("{text}: {error}")),
                }
            }
            if repair { mend(driver, &owned, &known, report) } else { Ok(()) }
        })?;
        for record in self.records()?.found.iter().filter(|_| repair) {
            let given_back = self.sweep_leases(&record.network.id)?;
            if given_back > 0 {
                report.done.push(format!(
                    "gave back the addresses of {given_back} endpoint(s) of network '{}' that have no record",
                    record.name()
                ));
            }
        }
        drop(alone);
        self.check_supervised(repair, found, &mut report)?;
        Ok(report)
    }

    /// Takes everything out of the kernel that drivers made there, and puts back the host's own settings. The records stay:
    /// a network is made again when a container needs it. Refused while a container is connected to one.
    pub fn undo(&self) -> Result<NetworkReport> {
        let _alone = self.alone()?;
        for record in self.known()?.networks.values() {
            self.refuse_used(record, "take down")?;
        }
        let mut report = NetworkReport::default();
        self.each_driver(&mut report, |driver, report| {
            let known = self.known()?;
            for (scope, objects) in unrecorded(&driver.list()?, &known) {
                discard(driver, scope, &known)?;
                report.done.push(format!("removed {}: {objects}", describe(scope, &known)));
            }
            for record in known.networks.values().filter(|record| record.driver == driver.name()) {
                driver.down(&record.network)?;
            }
            let restored = driver.restore()?;
            report.done.extend(restored.iter().map(ToString::to_string));
            Ok(())
        })?;
        if report.faults.is_empty() {
            self.forget_firewall()?;
        }
        Ok(report)
    }

    /// Goes on with the next one after a failure. A driver that this host has not got has nothing in its kernel.
    fn each_driver(
        &self,
        report: &mut NetworkReport,
        mut work: impl FnMut(&dyn NetworkDriver, &mut NetworkReport) -> Result<()>,
    ) -> Result<()> {
        let used: BTreeSet<String> =
            self.known()?.networks.into_values().map(|record| record.driver).collect();
        for entry in self.registry.network_drivers() {
            let done = self.driver(entry.name).and_then(|driver| work(&*driver, report));
            match done {
                Err(error) if used.contains(entry.name) || !is_unavailable(&error) => {
                    report.faults.push(format!("driver '{}': {error}", entry.name));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn known(&self) -> Result<Known> {
        let networks: BTreeMap<_, _> =
            self.records()?.whole()?.into_iter().map(|record| (record.network.id, record)).collect();
        let mut endpoints = BTreeSet::new();
        for id in networks.keys() {
            endpoints.extend(self.endpoints(id)?.into_iter().map(|record| (*id, record.endpoint.id)));
        }
        Ok(Known { networks, endpoints })
    }
}

impl Known {
    fn names(&self, scope: Scope) -> bool {
        match scope {
            Scope::Driver => true,
            Scope::Network(network) => self.networks.contains_key(&network),
            Scope::Endpoint(network, endpoint) => self.endpoints.contains(&(network, endpoint)),
        }
    }

    fn network(&self, id: NetworkId) -> Network {
        self.networks.get(&id).map_or_else(|| Network::unrecorded(id), |record| record.network.clone())
    }
}

/// What no record names, endpoints before the networks that they are in.
fn unrecorded(owned: &[Owned], known: &Known) -> Vec<(Scope, String)> {
    let mut found: BTreeMap<Scope, Vec<&str>> = BTreeMap::new();
    for Owned { scope, object } in owned.iter().filter(|owned| !known.names(owned.scope)) {
        found.entry(*scope).or_default().push(object);
    }
    found.into_iter().rev().map(|(scope, objects)| (scope, objects.join(", "))).collect()
}

fn describe(scope: Scope, known: &Known) -> String {
    let name = |id: NetworkId| known.network(id).name;
    match scope {
        Scope::Driver => "what networks share".to_owned(),
        Scope::Network(network) => format!("network '{network}', which has no record"),
        Scope::Endpoint(network, endpoint) => {
            format!("endpoint '{endpoint}' of network '{}', which has no record", name(network))
        }
    }
}

fn discard(driver: &dyn NetworkDriver, scope: Scope, known: &Known) -> Result<()> {
    match scope {
        Scope::Driver => {}
        Scope::Network(network) => driver.down(&Network::unrecorded(network))?,
        Scope::Endpoint(network, endpoint) => {
            driver.detach(&known.network(network), &Endpoint::unrecorded(endpoint), None, None)?;
        }
    }
    Ok(())
}

/// Makes whole what is in use and what stands.
fn mend(
    driver: &dyn NetworkDriver,
    owned: &[Owned],
    known: &Known,
    report: &mut NetworkReport,
) -> Result<()> {
    let standing = owned.iter().filter_map(|owned| match owned.scope {
        Scope::Network(network) => Some(network),
        _ => None,
    });
    let wanted: BTreeSet<NetworkId> =
        standing.chain(known.endpoints.iter().map(|(network, _)| *network)).collect();
    for record in wanted.iter().filter_map(|id| known.networks.get(id)) {
        if record.driver != driver.name() {
            continue;
        }
        match driver.up(&record.network) {
            Ok(raised) => report.done.extend(raised.host.iter().map(ToString::to_string)),
            Err(error) => report.faults.push(format!("network '{}': {error}", record.name())),
        }
    }
    let before: BTreeSet<&str> = owned.iter().map(|owned| owned.object.as_str()).collect();
    let made = driver.list()?.into_iter().filter(|owned| !before.contains(owned.object.as_str()));
    report.done.extend(made.map(|owned| format!("made {}", owned.object)));
    Ok(())
}

fn is_unavailable(error: &Error) -> bool {
    match error {
        Error::Storage(mica_core::Error::Unavailable { .. }) => true,
        Error::Doing { source, .. } => is_unavailable(source),
        _ => false,
    }
}
