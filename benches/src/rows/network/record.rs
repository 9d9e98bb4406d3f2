//! What is written down before a container is connected: the lease of its addresses, and its endpoint, twice.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use mica_core::durable;
use mica_core::network::{Attachment, Endpoint, EndpointId, Families, InterfaceName};
use mica_engine::networks::{DEFAULT, EndpointRecord, NetworkRecord, Networks};
use mica_engine::{Root, drivers};

use super::{Contender, Row};
use crate::Result;
use crate::stage::Stage;

/// Neighbours in the last contender.
const MANY: u32 = 250;

/// The records of a data root.
struct Office {
    networks: Networks,
    network: NetworkRecord,
    next: Cell<u32>,
}

impl Office {
    fn new(stage: &Stage, root: &str, neighbours: u32) -> Result<Rc<Self>> {
        let root = Root::open(&stage.path(root)).map_err(told)?;
        let networks = Networks::open(root, drivers::registry(), None);
        let network = networks.get(DEFAULT).map_err(told)?;
        let office = Self { networks, network, next: Cell::new(0) };
        (0..neighbours).try_for_each(|_| office.record().map(drop))?;
        Ok(Rc::new(office))
    }

    /// All that is recorded of one container while it is connected.
    fn record(&self) -> Result<EndpointRecord> {
        let number = self.next.get();
        self.next.set(number + 1);
        let mut id = [0x6e; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        let id = EndpointId::from_bytes(id);
        let lease = self.networks.lease(&self.network, id, &[], &BTreeSet::new()).map_err(told)?;
        let mut record = EndpointRecord {
            network: self.network.network.id,
            container: format!("{number:064x}"),
            name: format!("bench-{number}"),
            aliases: Vec::new(),
            hostname: format!("bench-{number}"),
            endpoint: Endpoint {
                id,
                interface: InterfaceName::inner(0),
                addresses: lease.addresses.clone(),
                mac: None,
                gateway: Families { v4: true, v6: true },
                ports: Vec::new(),
                options: mica_core::OptionMap::new(),
            },
            loopback6: Vec::new(),
            attachment: None,
            outside: None,
        };
        self.networks.record_endpoint(&record).map_err(told)?;
        drop(lease);
        record.attachment = Some(Attachment::default());
        self.networks.write_endpoint(&record).map_err(told)?;
        Ok(record)
    }

    fn forget(&self, record: &EndpointRecord) -> Result<()> {
        self.networks.forget_endpoint(&record.network, &record.container).map_err(told)?;
        let leases = self.networks.leases().map_err(told)?;
        leases.give_back(&record.network, &record.endpoint.id).map_err(told)
    }
}

/// The records that go with a container, and one that stays, which is made durable.
pub(crate) fn record(stage: &Stage) -> Result<Vec<Row<'_>>> {
    let file = stage.path("durable");
    let durable = Contender::call("a durable file", move || {
        durable::write(&file, &[b'x'; 500]).map_err(|e| format!("write '{}': {e}", file.display()))
    });
    let contenders = vec![
        contender("records", Office::new(stage, "office", 0)?),
        contender("records, beside 250", Office::new(stage, "large-office", MANY)?),
        durable,
    ];
    Ok(vec![Row { name: "net.record", contenders, bounds: Vec::new() }])
}

fn contender(name: &str, office: Rc<Office>) -> Contender<'static> {
    let kept = Rc::new(Cell::new(None));
    let (taken, after) = (kept.clone(), office.clone());
    Contender::call(name, move || office.record().map(|record| kept.set(Some(record))))
        .after(move || taken.take().map_or(Ok(()), |record| after.forget(&record)))
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}
