//! What a runtime may say, whatever it is: the plugin hears it or refuses it, as the protocol has it.

use std::ffi::OsString;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::call::{Call, argument};
use super::config::{Config, Fields};
use super::refusal::Code;
use super::version::Version;
use super::{Answer, Base, run};
use crate::drivers;

const VERBS: [&str; 7] = ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "update"];

/// Those that open nothing where no data root is.
const QUIET: [&str; 4] = ["DEL", "GC", "VERSION", "update"];

/// All fields of a configuration, and some that are none.
const FIELDS: [&str; 22] = [
    "cniVersion",
    "name",
    "type",
    "driver",
    "subnets",
    "gateways",
    "ranges",
    "auxiliary",
    "ipv4",
    "ipv6",
    "internal",
    "options",
    "ipMasq",
    "isDefaultGateway",
    "dns",
    "firewall",
    "runtimeConfig",
    "args",
    "prevResult",
    "cni.dev/valid-attachments",
    "cni.dev/unknown",
    "ipam",
];

/// Calls the plugin where no data root is.
fn call(verb: &str, input: &[u8]) -> Answer {
    let root = tempfile::tempdir().unwrap();
    let base = Base { registry: drivers::registry(), root: root.path().join("none"), firewall: None };
    let variable = |name: &str| {
        let value = match name {
            "CNI_COMMAND" => verb,
            "CNI_CONTAINERID" => "one",
            "CNI_IFNAME" => "eth0",
            _ => "",
        };
        Some(OsString::from(value))
    };
    run(base, &variable, &mut &input[..])
}

fn read(fields: &Value, verb: &str) -> Result<Config, (Code, String)> {
    let variable = |name: &str| match name {
        "CNI_COMMAND" => Some(verb.into()),
        _ => Some("x".into()),
    };
    let call = Call::read(&variable).map_err(|refusal| (refusal.code, refusal.text))?;
    let read =
        Fields::read(fields.to_string().as_bytes()).and_then(|mut fields| Config::read(&mut fields, &call));
    read.map_err(|refusal| (refusal.code, refusal.text))
}

/// JSON of any shape, with the texts that mean something somewhere.
fn anything() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        Just("10.1.0.0/24".to_owned()),
        Just("fd00::1".to_owned()),
        Just("1.1.0".to_owned()),
        Just("02:00:00:00:00:01".to_owned()),
        any::<String>(),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        text.prop_map(Value::from),
    ];
    let key = prop_oneof![
        proptest::sample::select(vec![
            "portMappings",
            "ips",
            "mac",
            "aliases",
            "hostPort",
            "containerPort",
            "cni",
            "mtu"
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    leaf.prop_recursive(3, 16, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..4)
                .prop_map(|pairs| Value::from(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn check_answer(verb: &str, answer: &Answer) -> Result<(), TestCaseError> {
    if answer.text.is_empty() {
        prop_assert!(answer.is_success, "{verb}");
        return Ok(());
    }
    let told: Value = serde_json::from_str(&answer.text)
        .map_err(|error| TestCaseError::fail(format!("{verb}: {error}: {}", answer.text)))?;
    if answer.is_success {
        prop_assert!(verb == "VERSION" && told["supportedVersions"].is_array(), "{verb}: {told}");
    } else {
        let version = told["cniVersion"].as_str().and_then(Version::named);
        prop_assert!(version.is_some() && told["code"].as_u64() > Some(0), "{verb}: {told}");
        prop_assert!(told["msg"].as_str().is_some_and(|text| !text.is_empty()), "{verb}: {told}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_comes_is_answered(
        verb in proptest::sample::select(QUIET.to_vec()),
        input in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        check_answer(verb, &call(verb, &input))?;
    }

    #[test]
    fn a_configuration_of_any_shape_is_read_or_refused(
        verb in proptest::sample::select(VERBS.to_vec()),
        fields in proptest::collection::vec((proptest::sample::select(FIELDS.to_vec()), anything()), 0..6),
    ) {
        let mut config = json!({ "cniVersion": "1.1.0", "name": "pods" });
        for (name, value) in fields {
            config[name] = value;
        }
        if QUIET.contains(&verb) {
            check_answer(verb, &call(verb, config.to_string().as_bytes()))?;
        } else if let Err((_, text)) = read(&config, verb) {
            prop_assert!(!text.is_empty());
        }
    }

    #[test]
    fn a_field_that_nobody_knows_is_named_with_its_value(name in "[a-z]{1,12}", value in "[a-z0-9]{1,12}") {
        prop_assume!(!FIELDS.contains(&name.as_str()) && !["root", "capabilities"].contains(&name.as_str()));
        let mut config = json!({ "name": "pods" });
        config[&name] = json!(value);
        let (code, text) = read(&config, "STATUS").unwrap_err();
        prop_assert_eq!(code, Code::Field);
        prop_assert!(text.contains(&format!("'{name}'")) && text.contains(&value), "{}", text);
    }

    #[test]
    fn an_argument_is_found_among_any_others(
        before in "([A-Z_]{1,5}=[a-z]{0,5};){0,3}",
        value in "[a-z0-9.:]{1,12}",
        after in "(;[A-Z_]{1,5}=[a-z]{0,5}){0,3}",
    ) {
        let arguments = format!("{before}OURS={value}{after}");
        prop_assume!(!before.contains("OURS="));
        prop_assert_eq!(argument(&arguments, "OURS"), Some(value.as_str()));
        prop_assert_eq!(argument(&arguments, "ours"), None);
    }
}

#[test]
fn what_is_configured_is_what_a_network_is_made_of() {
    let config = json!({
        "name": "pods",
        "driver": "bridge",
        "subnets": ["10.22.0.0/16", "fd22::/64"],
        "gateways": ["10.22.0.9"],
        "ranges": ["10.22.1.0/24"],
        "auxiliary": { "nas": "10.22.0.7" },
        "ipv6": true,
        "internal": true,
        "ipMasq": false,
        "options": { "mtu": 1400, "icc": false, "name": "pods0" },
    });
    let network = read(&config, "STATUS").unwrap().network();
    let options = [("icc", "false"), ("masquerade", "false"), ("mtu", "1400"), ("name", "pods0")];
    assert_eq!(network.options, options.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    assert_eq!(
        (network.name.as_str(), network.driver.as_deref(), network.internal),
        ("pods", Some("bridge"), true)
    );
    let addresses = network.addresses;
    assert_eq!(addresses.subnets.len(), 2);
    assert_eq!(addresses.gateways, ["10.22.0.9".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(addresses.ranges[0].to_string(), "10.22.1.0/24");
    assert_eq!(addresses.auxiliary["nas"].to_string(), "10.22.0.7");
    assert_eq!((addresses.ipv4, addresses.ipv6), (None, Some(true)));
}

#[test]
fn aliases_may_be_told_for_each_network_by_its_name() {
    let aliases = |said: Value| {
        let config = json!({ "name": "pods", "runtimeConfig": { "aliases": said } });
        read(&config, "ADD").map(|config| config.wishes.aliases)
    };
    assert_eq!(aliases(json!(["a", "b"])).unwrap(), ["a", "b"]);
    assert_eq!(aliases(json!({ "pods": ["a"], "other": ["b"] })).unwrap(), ["a"]);
    assert_eq!(aliases(json!(["a/b"])).unwrap_err().0, Code::Config);
}

#[test]
fn a_configuration_beyond_all_measure_is_not_read() {
    let Answer { text, is_success, .. } = call("DEL", &vec![b' '; 5 << 20]);
    assert!(!is_success && text.contains("longer than"), "{text}");
}
