use super::*;

fn network() -> Network {
    let id = NetworkId::from_bytes([0x11; 16]);
    let pool = Pool {
        subnet: "172.30.0.0/24".parse().unwrap(),
        gateway: Some("172.30.0.1".parse().unwrap()),
        range: Some("172.30.0.128/25".parse().unwrap()),
        reserved: vec!["172.30.0.200".parse().unwrap()],
    };
    Network {
        name: "web".to_owned(),
        interface: Some("mica0".parse().unwrap()),
        pools: vec![pool],
        routes: Families { v4: true, v6: false },
        mtu: Some(1400),
        options: OptionMap::from([("icc".to_owned(), "false".to_owned())]),
        ..Network::unrecorded(id)
    }
}

fn endpoint() -> Endpoint {
    Endpoint {
        addresses: vec!["172.30.0.9".parse().unwrap()],
        mac: Some("02:42:ac:1e:00:09".parse().unwrap()),
        gateway: Families { v4: true, v6: false },
        ports: vec!["127.0.0.1:8080:80".parse().unwrap(), "3000-3099:3000-3099/udp".parse().unwrap()],
        ..Endpoint::unrecorded(EndpointId::from_bytes([0x5e; 16]))
    }
}

fn attachment() -> Attachment {
    let interface = Interface {
        name: "eth0".parse().unwrap(),
        mac: Mac::of_endpoint(&endpoint().id),
        mtu: 1400,
        addresses: vec!["172.30.0.9/24".parse().unwrap()],
    };
    Attachment {
        interface: Some(interface),
        gateways: vec!["172.30.0.1".parse().unwrap()],
        ports: endpoint().ports,
        data: "{\"cniVersion\":\"1.1.0\"}".to_owned(),
        ..Attachment::default()
    }
}

#[test]
fn what_the_engine_stores_comes_back_as_it_was() {
    fn stored<T: Serialize + serde::de::DeserializeOwned>(record: &T) -> T {
        serde_json::from_str(&serde_json::to_string(record).unwrap()).unwrap()
    }
    assert_eq!(stored(&network()), network());
    assert_eq!(stored(&endpoint()), endpoint());
    assert_eq!(stored(&attachment()), attachment());
    assert_eq!(stored(&Attachment::default()), Attachment::default());
}

#[test]
fn a_record_reads_as_people_write_its_parts() {
    let record = serde_json::to_value(endpoint()).unwrap();
    assert_eq!(record["id"], "5e".repeat(16));
    assert_eq!(record["interface"], "eth0");
    assert_eq!(record["addresses"][0], "172.30.0.9");
    assert_eq!(record["ports"][0], "127.0.0.1:8080:80/tcp");
    assert_eq!(serde_json::to_value(network()).unwrap()["pools"][0]["subnet"], "172.30.0.0/24");
}

#[test]
fn a_record_that_is_not_understood_whole_is_refused() {
    let mut record = serde_json::to_value(endpoint()).unwrap();
    record["bandwidth"] = "1G".into();
    let text = serde_json::from_value::<Endpoint>(record).unwrap_err().to_string();
    assert!(text.contains("unknown field `bandwidth`"), "{text}");
}
